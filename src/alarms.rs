//! Alarms: an instance that wants to be woken at a time, and whoever wakes it.
//!
//! ```text
//! set_alarm ──commit──> record ──> index of names by time ──look──> Alarms::next ──> DueAlarm
//!                         ^                                            │ lock, read    │ done
//!                         └──────────────── is it still this one? ─────┘<──────────────┘
//! ```
//!
//! The index says where to look, the record of the instance, under its lock, what is true. Nothing
//! runs in the background: an alarm comes to whoever waits for it, and to nobody else.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::stream::{self, Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actors::Hold;
use crate::blocking;
use crate::disk::alarms::AlarmIndex;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::instance::InstanceRef;
use crate::kind::Instance;
use crate::log::lane::Lane;
use crate::log::recover;
use crate::record::{Alarm, AlarmEntry, InstanceId, may_be};

/// How often the index is looked at, for alarms that other processes have set.
const LOOK: Duration = Duration::from_secs(1);

/// A look that took long is followed by a pause that is so many times as long.
const LOOK_SHARE: u32 = 20;

/// Shortest pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Most alarms that are known ahead.
const AHEAD: usize = 1024;

/// How soon an alarm is looked at again whose instance somebody else has locked.
const LOCKED: Duration = Duration::from_secs(1);

/// How soon one is handed out again that was handed out and not done.
const REDELIVER: Duration = Duration::from_secs(5);

/// Most alarms that are remembered as not for now.
const HELD: usize = 65_536;

impl<I: Instance> InstanceRef<I> {
    /// Wakes the instance at `at`, in the place of the alarm that it may have: an instance has one.
    /// See [`Transaction::set_alarm`](crate::Transaction::set_alarm), which sets it together with
    /// other changes, and [`Store::alarms`](crate::Store::alarms), where it comes out.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// let at = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    /// instance.set_alarm(at, "look whether the build has ended").await?;
    /// assert!(instance.record().await?.alarm.is_some());
    /// # store.shutdown().await }
    /// ```
    ///
    /// When the future is dropped: see [`InstanceRef`].
    ///
    /// # Errors
    ///
    /// Those of [`Transaction::set_alarm`](crate::Transaction::set_alarm) and [`InstanceRef::update`].
    pub async fn set_alarm<T: Serialize + Send + 'static>(&self, at: DateTime<Utc>, payload: T) -> Result<()> {
        self.commit(move |tx| tx.set_alarm(at, &payload)).await.map(drop)
    }

    /// Takes the alarm back; says whether there was one. One that has been handed out already is
    /// with whoever has it.
    ///
    /// ```
    /// use chrono::{TimeDelta, Utc};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.set_alarm(Utc::now() + TimeDelta::hours(1), "look again").await?;
    /// assert!(build.clear_alarm().await?);
    /// assert!(build.record().await?.alarm.is_none());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::update`].
    pub async fn clear_alarm(&self) -> Result<bool> {
        Ok(self.commit(|tx| Ok(tx.clear_alarm())).await?.value)
    }
}

/// The alarms of the instances of one kind, as they come due: see
/// [`Store::alarms`](crate::Store::alarms).
///
/// Nothing runs beside it: it looks when [`Alarms::next`] is waited for, and when it is dropped
/// nobody waits any more.
///
/// ```
/// use fiefdom::{NewInstance, Store, Untyped};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
/// build.set_alarm(chrono::Utc::now(), "has it ended?").await?;
///
/// let mut alarms = store.alarms();
/// let due = alarms.next().await.expect("the store is open")?;
/// assert_eq!(due.payload::<String>()?, "has it ended?");
/// due.instance().append("looked", ()).await?;
/// due.done().await?; // until then, it comes again
/// # store.shutdown().await }
/// ```
pub struct Alarms<I: Instance> {
    engine: Arc<Engine>,
    bell: watch::Receiver<()>,
    /// The earliest that the last look found, in order.
    ahead: VecDeque<AlarmEntry>,
    held: Held,
    next_look: Instant,
    /// Not before this, whatever happens: looking takes a small part of the time.
    soonest_look: Instant,
    redeliver_after: Duration,
    kind: PhantomData<fn() -> I>,
}

impl<I: Instance> std::fmt::Debug for Alarms<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarms").field("kind", &I::KIND).field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

/// What came of an entry of the index.
enum Claim<I: Instance> {
    Due(DueAlarm<I>),
    /// It is out of date, and gone.
    Stale,
    Later(Duration),
    Closed,
    Failed(Error),
}

impl<I: Instance> Alarms<I> {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let bell = engine.ground.log.bell().listen();
        Self {
            engine,
            bell,
            ahead: VecDeque::new(),
            held: Held::default(),
            next_look: Instant::now(),
            soonest_look: Instant::now(),
            redeliver_after: REDELIVER,
            kind: PhantomData,
        }
    }

    /// How soon an alarm is handed out again that was dropped without [`DueAlarm::done`].
    /// Default: 5 s. (Another process that waits for it may have it sooner.)
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// let alarms = store.alarms().redeliver_after(Duration::from_secs(60));
    /// # drop(alarms);
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn redeliver_after(mut self, delay: Duration) -> Self {
        self.redeliver_after = delay;
        self
    }

    /// Waits for the next alarm that is due. `None` when the store is shut down. Cancel safe: an alarm
    /// that was not returned is found again.
    ///
    /// # Errors
    ///
    /// What went wrong with one instance (it is damaged, say), or with the look at the index. The
    /// next call goes on; what could not be handed out is tried again.
    pub async fn next(&mut self) -> Option<Result<DueAlarm<I>>> {
        loop {
            let now = Utc::now().timestamp_millis();
            if self.ahead.front().is_some_and(|alarm| alarm.due <= now) {
                let Some(alarm) = self.ahead.pop_front() else { continue };
                match self.claim(&alarm).await {
                    Claim::Due(due) => return Some(Ok(due)),
                    Claim::Stale => {}
                    Claim::Later(delay) => self.held.until(alarm, delay),
                    Claim::Closed => return None,
                    Claim::Failed(error) => {
                        self.held.until(alarm, self.redeliver_after);
                        return Some(Err(error));
                    }
                }
            } else if Instant::now() >= self.next_look {
                if let Err(error) = self.look().await {
                    return if matches!(error, Error::Closed) { None } else { Some(Err(error)) };
                }
            } else {
                self.wait(now).await;
            }
        }
    }

    /// The same as a stream, to work on several at once with what `futures` has for that. It ends when
    /// the store is shut down.
    ///
    /// ```
    /// use chrono::Utc;
    /// use futures::{StreamExt as _, TryStreamExt as _};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.set_alarm(Utc::now(), "look again").await?;
    /// let alarms = store.alarms().into_stream();
    /// let fired = alarms.take(1).try_for_each_concurrent(8, |due| due.done()); // eight at once
    /// fired.await?;
    /// assert!(build.record().await?.alarm.is_none());
    /// # store.shutdown().await }
    /// ```
    pub fn into_stream(self) -> impl Stream<Item = Result<DueAlarm<I>>> + Send + Unpin {
        stream::unfold(self, |mut alarms| async move { alarms.next().await.map(|item| (item, alarms)) }).boxed()
    }

    /// Until something is due, a look is, or there is a new entry.
    async fn wait(&mut self, now: i64) {
        let mut until = self.next_look;
        if let Some(first) = self.ahead.front() {
            let left = u64::try_from(first.due - now).unwrap_or(0);
            until = until.min(Instant::now() + Duration::from_millis(left));
        }
        if let Some(held) = self.held.first() {
            // What is held is not ahead: it takes a look to find it again.
            self.next_look = self.next_look.min(held.max(self.soonest_look));
            until = until.min(self.next_look);
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            // The sender lives in the log, which the engine keeps.
            _ = self.bell.changed() => self.next_look = self.next_look.min(self.soonest_look),
            () = self.held.changed() => {}
        }
    }

    /// Looks at the index; and whether a process has died that may have kept an alarm in its log.
    async fn look(&mut self) -> Result<()> {
        self.bell.mark_unchanged();
        // With nothing due, no claim would tell.
        if self.engine.ground.log.is_closed() {
            return Err(Error::Closed);
        }
        let begun = Instant::now();
        let (ground, held) = (Arc::clone(&self.engine.ground), self.held.clone());
        let looked = blocking::run(move || {
            recover::recover_if_dead(&ground.root, ground.log.writer_id())?;
            let now = Utc::now().timestamp_millis();
            let held = held.present();
            let internal = &ground.root.internal;
            AlarmIndex::look(internal, now, AHEAD, |kind| may_be(kind, I::accepts), |alarm| held.contains_key(alarm))
        })
        .await;
        let (ended, share) = (Instant::now(), begun.elapsed() * LOOK_SHARE);
        self.soonest_look = ended + share.max(LOOK_PAUSE);
        self.next_look = ended + share.max(LOOK);
        self.ahead = looked?.into();
        Ok(())
    }

    /// Brings the instance to life, and sees whether it still has this alarm.
    async fn claim(&self, alarm: &AlarmEntry) -> Claim<I> {
        match self.try_claim(alarm).await {
            Ok(claim) => claim,
            Err(Error::Locked { .. } | Error::Overloaded { .. } | Error::Gone { .. }) => Claim::Later(LOCKED),
            // Of an instance that came later under the same id: not ours to fire.
            Err(Error::KindMismatch { .. }) => Claim::Later(LOOK * 60),
            Err(Error::Closed) => Claim::Closed,
            Err(error) => Claim::Failed(error),
        }
    }

    async fn try_claim(&self, entry: &AlarmEntry) -> Result<Claim<I>> {
        let instance = InstanceRef::<I>::new(entry.id.clone(), Arc::clone(&self.engine), None);
        let (live, _permit) = match instance.admitted().await {
            Err(Error::NotFound { .. }) => {
                // An entry is of one life of the instance, and that is over.
                let (ground, entry) = (Arc::clone(&self.engine.ground), entry.clone());
                blocking::run(move || AlarmIndex::remove(&ground.root.internal, &entry)).await?;
                return Ok(Claim::Stale);
            }
            admitted => admitted?,
        };
        let lane = Arc::clone(&live.core.lane);
        let record = live.core.published();
        let Some(alarm) = record.alarm.clone().filter(|_| record.alarm_entry().as_ref() == Some(entry)) else {
            let entry = entry.clone();
            blocking::run(move || lane.forget_alarm(&entry)).await?;
            return Ok(Claim::Stale);
        };
        // The permit keeps it from being closed in between, unless the store shuts down.
        let hold = live.core.admission.hold().ok_or(Error::Closed)?;
        if !lane.take_alarm() {
            return Ok(Claim::Later(LOCKED));
        }
        self.held.out(entry.clone());
        Ok(Claim::Due(DueAlarm {
            instance,
            engine: Arc::clone(&self.engine),
            alarm,
            entry: entry.clone(),
            held: self.held.clone(),
            delay: self.redeliver_after,
            lane,
            awake: Some(hold),
        }))
    }
}

/// An alarm that is due, in the hands of whoever acts on it. Until it is dropped nobody else gets
/// it, and the instance stays live here.
///
/// ```
/// use chrono::Utc;
///
/// # use fiefdom::{NewInstance, Store, Untyped};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path(), Untyped).await?;
/// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
/// build.set_alarm(Utc::now(), "look again").await?;
/// let mut alarms = store.alarms();
/// let due = alarms.next().await.expect("the store is open")?;
/// assert_eq!((due.id(), due.payload::<String>()?.as_str()), (build.id(), "look again"));
/// assert!(due.at() <= Utc::now() && due.alarm().revision == 1);
///
/// due.instance().update(|state| state["looked"] = true.into()).await?;
/// due.done().await?; // dropped without this, it comes again
/// # store.shutdown().await }
/// ```
pub struct DueAlarm<I: Instance> {
    instance: InstanceRef<I>,
    engine: Arc<Engine>,
    alarm: Alarm,
    entry: AlarmEntry,
    held: Held,
    delay: Duration,
    lane: Arc<Lane>,
    awake: Option<Hold>,
}

impl<I: Instance> std::fmt::Debug for DueAlarm<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DueAlarm").field("id", self.id()).field("alarm", &self.alarm).finish_non_exhaustive()
    }
}

impl<I: Instance> DueAlarm<I> {
    /// Whose alarm it is.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        self.instance.id()
    }

    /// The instance. A commit that does the work in its state and calls
    /// [`Transaction::clear_alarm`](crate::Transaction::clear_alarm), or sets the next alarm, is done
    /// once: with it the alarm is over.
    #[must_use]
    pub fn instance(&self) -> &InstanceRef<I> {
        &self.instance
    }

    /// When it was due (UTC).
    #[must_use]
    pub fn at(&self) -> DateTime<Utc> {
        self.alarm.at
    }

    /// What was said when it was set, as a typed value.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when the payload does not have that shape.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        self.alarm.payload_as()
    }

    /// The alarm as it stands in the record.
    #[must_use]
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// It has been acted on: clears it, as durably as the store's level says, and it never comes
    /// again. An alarm that was set in the meantime stays.
    ///
    /// When the future is dropped before that is durable, it may come again.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef::update`] but [`Error::NotFound`]: then it comes again.
    pub async fn done(self) -> Result<()> {
        let (uid, revision) = (self.entry.uid, self.entry.revision);
        let is_still = move |uid_now, alarm: Option<&Alarm>| {
            uid_now == uid && alarm.is_some_and(|alarm| alarm.revision == revision)
        };
        let cleared = async {
            let record = self.instance.record().await?;
            if !is_still(record.uid, record.alarm.as_ref()) {
                return Ok(());
            }
            let clear = move |tx: &mut crate::Transaction<I::State>| {
                if is_still(tx.record().uid, tx.record().alarm.as_ref()) {
                    tx.clear_alarm();
                }
                Ok(())
            };
            self.instance.commit(clear).await.map(drop)
        };
        match cleared.await {
            // Deleted: there is nothing left to wake.
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}

impl<I: Instance> Drop for DueAlarm<I> {
    fn drop(&mut self) {
        self.held.until(self.entry.clone(), self.delay);
        self.lane.give_back_alarm();
        // Whoever else waits for alarms of it shall have it.
        drop(self.awake.take());
        self.engine.release(self.id());
    }
}

/// Alarms that are not to be handed out for now.
#[derive(Clone)]
struct Held(Arc<HeldInner>);

struct HeldInner {
    /// `None`: somebody has it in hand.
    until: Mutex<HashMap<AlarmEntry, Option<Instant>>>,
    changed: tokio::sync::Notify,
}

impl Default for Held {
    fn default() -> Self {
        Self(Arc::new(HeldInner { until: Mutex::default(), changed: tokio::sync::Notify::new() }))
    }
}

impl Held {
    fn map(&self) -> MutexGuard<'_, HashMap<AlarmEntry, Option<Instant>>> {
        self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn out(&self, alarm: AlarmEntry) {
        self.map().insert(alarm, None);
    }

    fn until(&self, alarm: AlarmEntry, delay: Duration) {
        let mut map = self.map();
        if map.len() >= HELD && !map.contains_key(&alarm) {
            // Those that are forgotten are looked at sooner, which is harmless.
            map.retain(|_, until| until.is_none());
        }
        map.insert(alarm, Some(Instant::now() + delay));
        drop(map);
        self.0.changed.notify_one();
    }

    /// When the first may be looked at again.
    fn first(&self) -> Option<Instant> {
        self.map().values().filter_map(|until| *until).min()
    }

    async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Those that are still held; the others are forgotten.
    fn present(&self) -> HashMap<AlarmEntry, Option<Instant>> {
        let (mut map, now) = (self.map(), Instant::now());
        map.retain(|_, until| until.is_none_or(|until| until > now));
        map.clone()
    }
}

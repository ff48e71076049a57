//! A commit while its closure runs: a draft of the record, and the events. It makes bytes, and never
//! touches the log or a file.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::error::Result;
use crate::log::commit::Body;
use crate::options::Durability;
use crate::record::work::Work;
use crate::record::{self, Alarm, EventDraft, EventLine, Record, Status, strict};

/// One atomic change of one instance: state, status, tags and events together, all or nothing.
///
/// It is handed to the closure of [`InstanceRef::commit`](crate::InstanceRef::commit). What the
/// closure does to it counts only when the closure returns `Ok` and the commit is durable.
///
/// ```
/// use fiefdom::{Error, NewInstance, Store, Untyped};
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// let order = store.create(NewInstance::new()).await?;
/// let paid = order
///     .commit(|tx| {
///         tx.state_mut()["paid"] = true.into();
///         tx.tag("customer", "ada")?;
///         tx.untag("waits-for");
///         tx.set_name(Some("twelve pencils"));
///         tx.set_pinned(true); // retention leaves it alone
///         tx.event("order.paid", &json!({ "cents": 1200 }))
///     })
///     .await?;
/// assert_eq!((paid.value, paid.revision), (1, 1)); // the event is number 1, and so is the commit
///
/// let refused = order.commit(|tx| {
///     tx.state_mut()["paid"] = false.into();
///     Err::<(), _>(Error::rejected("it is paid already"))
/// });
/// assert!(matches!(refused.await, Err(Error::Rejected { .. })));
/// assert_eq!(order.state().await?["paid"], true);
/// # store.shutdown().await }
/// ```
#[derive(Debug)]
pub struct Transaction<S> {
    draft: Record<S>,
    events: Vec<EventDraft>,
    touched: Touched,
    deletes: bool,
    at: DateTime<Utc>,
    pub(crate) durability: Option<Durability>,
}

/// What of the record a transaction may have changed, beyond what every commit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Touched {
    Nothing,
    State,
    Record,
}

/// By how much a record may have grown that is only counted on: its revision, its events, the time.
const GROWTH: usize = 128;

/// What a transaction has become, or several of them, each behind the one before: what stands in one
/// line of the log, and the record to publish.
pub(crate) struct Sealed<S> {
    /// As the last of them leaves it.
    pub(crate) record: Arc<Record<S>>,
    /// The revision that the first of them makes.
    pub(crate) first: u64,
    /// Whether the last is the last commit of the instance.
    pub(crate) deleted: bool,
    pub(crate) events: Vec<EventLine>,
    /// What the body holds.
    touched: Touched,
    pub(crate) body: Body,
    /// Bytes of JSON that were encoded for all of them.
    pub(crate) encoded: usize,
}

impl<S> Sealed<S> {
    /// Whether nothing needs to be added to the line for whoever has nothing else of the instance.
    pub(crate) fn has_record(&self) -> bool {
        self.touched == Touched::Record || self.deleted
    }

    /// Takes in what was sealed behind it.
    pub(crate) fn join(&mut self, next: Self) {
        self.record = next.record;
        self.deleted = next.deleted;
        self.events.extend(next.events);
        self.encoded += next.encoded;
        if next.touched > Touched::Nothing {
            (self.touched, self.body) = (next.touched, next.body);
        }
    }
}

/// Who writes, and how much at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) epoch: u64,
    pub(crate) writer: Uuid,
    pub(crate) record_bytes: usize,
    pub(crate) event_bytes: usize,
}

impl<S: Clone + Serialize> Transaction<S> {
    pub(crate) fn new(current: &Record<S>) -> Self {
        Self {
            draft: current.clone(),
            events: Vec::new(),
            touched: Touched::Nothing,
            deletes: false,
            at: Utc::now(),
            durability: None,
        }
    }

    /// The record as this commit leaves it so far.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build
    ///     .commit(|tx| {
    ///         let attempt = tx.begin_attempt();
    ///         assert_eq!(tx.record().attempt, attempt); // what the commit has done so far counts
    ///         tx.event("attempt.begun", &attempt)
    ///     })
    ///     .await?;
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn record(&self) -> &Record<S> {
        &self.draft
    }

    /// The state as this commit leaves it so far.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.draft.state
    }

    /// The state, to change it. The first call copies it.
    pub fn state_mut(&mut self) -> &mut S {
        self.touched = self.touched.max(Touched::State);
        Arc::make_mut(&mut self.draft.state)
    }

    /// Moves the instance to `next`, with a reason for people (`None` takes the last one away), and
    /// keeps [`Record::started_at`] and [`Record::ended_at`] true. It writes no event.
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.commit(|tx| tx.set_status(Status::Running, Some("compiling"))).await?;
    /// let record = build.record().await?;
    /// assert_eq!(record.status_reason.as_deref(), Some("compiling"));
    /// assert!(record.started_at.is_some());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Transition`](crate::Error::Transition) when the lifecycle has no such step.
    pub fn set_status(&mut self, next: Status, reason: Option<&str>) -> Result<()> {
        self.touched = Touched::Record;
        self.draft.set_status(next, reason.map(str::to_owned), self.at)
    }

    /// Sets a label; one of the same key is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`](crate::Error::TooLarge) over 64 tags, or 256 bytes in a key or a value;
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) for an empty key. Return it from the closure.
    pub fn tag(&mut self, key: &str, value: &str) -> Result<()> {
        let before = self.draft.tags.insert(key.to_owned(), value.to_owned());
        if let Err(error) = Record::<S>::check_tags(&self.draft.tags) {
            // A closure may go on: then it is as if it had not asked.
            match before {
                Some(before) => drop(self.draft.tags.insert(key.to_owned(), before)),
                None => drop(self.draft.tags.remove(key)),
            }
            return Err(error);
        }
        self.touched = Touched::Record;
        Ok(())
    }

    /// Removes a label; says whether it was there.
    pub fn untag(&mut self, key: &str) -> bool {
        self.touched = Touched::Record;
        self.draft.tags.remove(key).is_some()
    }

    /// Gives the instance another name for people, or none.
    pub fn set_name(&mut self, name: Option<&str>) {
        self.touched = Touched::Record;
        self.draft.name = name.map(str::to_owned);
    }

    /// Sets whether retention must leave the instance alone.
    pub fn set_pinned(&mut self, pinned: bool) {
        self.touched = Touched::Record;
        self.draft.pinned = pinned;
    }

    /// Counts one more attempt at the work, and returns its number: 1, 2, 3, …
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let begun = build.commit(|tx| {
    ///     tx.set_status(Status::Running, None)?;
    ///     Ok(tx.begin_attempt())
    /// });
    /// assert_eq!(begun.await?.value, 1);
    /// # store.shutdown().await }
    /// ```
    pub fn begin_attempt(&mut self) -> u32 {
        self.touched = Touched::Record;
        self.draft.attempt = self.draft.attempt.saturating_add(1);
        self.draft.attempt
    }

    /// Wakes the instance at `at`, in the place of the alarm that it may have: an instance has one.
    /// It is durable with this commit, and comes out of [`Store::alarms`](crate::Store::alarms) at
    /// least once, also when it came due while nothing ran. `at` is rounded up to milliseconds; a time
    /// that has passed is due at once.
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
    /// // The work and the time of the next look are one commit: neither is there without the other.
    /// build
    ///     .commit(|tx| {
    ///         tx.state_mut()["looks"] = 1.into();
    ///         tx.set_alarm(Utc::now() + TimeDelta::minutes(5), "look again")
    ///     })
    ///     .await?;
    /// assert!(build.commit(|tx| Ok(tx.clear_alarm())).await?.value);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) for a time after the year 9999;
    /// [`Error::Unserializable`](crate::Error::Unserializable) for a payload that JSON cannot hold,
    /// [`Error::TooLarge`](crate::Error::TooLarge) for one of more than 64 KiB.
    pub fn set_alarm<T: Serialize + ?Sized>(&mut self, at: DateTime<Utc>, payload: &T) -> Result<()> {
        self.draft.alarm = Some(Alarm::new(at, self.draft.revision + 1, payload)?);
        self.touched = Touched::Record;
        Ok(())
    }

    /// Takes the alarm back; says whether there was one. The example is at [`Transaction::set_alarm`].
    pub fn clear_alarm(&mut self) -> bool {
        let cleared = self.draft.alarm.take().is_some();
        if cleared {
            self.touched = Touched::Record;
        }
        cleared
    }

    /// Adds an event of the type `kind`, such as `job.started`, and returns its `seq`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) for a type that is empty, longer than
    /// 128 bytes, or holds control characters; [`Error::Unserializable`](crate::Error::Unserializable)
    /// for data that JSON cannot hold. Data over
    /// [`Options::event_bytes`](crate::Options::event_bytes) makes the whole commit fail, with
    /// [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn event<T: Serialize + ?Sized>(&mut self, kind: &str, data: &T) -> Result<u64> {
        self.events.push(EventDraft::new(kind, data)?);
        Ok(self.draft.last_event_seq + self.events.len() as u64)
    }

    /// The last checkpoint and the input requests, to change them.
    pub(crate) fn work_mut(&mut self) -> &mut Work {
        self.touched = Touched::Record;
        Arc::make_mut(&mut self.draft.work)
    }

    /// When the commit is made.
    pub(crate) fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Sets when this commit is acknowledged, in the place of
    /// [`Options::durability`](crate::Options::durability). Commits of one instance that wait at the same
    /// time become durable together, at the most demanding level of them: it may come later than asked
    /// for, and more durable.
    ///
    /// ```
    /// use fiefdom::Durability;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build
    ///     .commit(|tx| {
    ///         tx.set_durability(Durability::Os); // survives the process, not a power cut
    ///         tx.event("progress", &41)
    ///     })
    ///     .await?;
    /// # store.shutdown().await }
    /// ```
    pub fn set_durability(&mut self, durability: Durability) {
        self.durability = Some(durability);
    }

    /// Gives the commit its revision and its events their numbers. When it was begun on what `earlier`
    /// leaves they may share a line.
    pub(crate) fn seal(mut self, stamp: Stamp, earlier: Option<&Sealed<S>>) -> Result<Sealed<S>> {
        self.draft.revision += 1;
        self.finish(stamp, earlier.map_or(Touched::Nothing, |earlier| earlier.touched))
    }

    /// Like [`Transaction::seal`], for the commit that creates the instance: revision 0.
    pub(crate) fn seal_creation(mut self, stamp: Stamp) -> Result<Sealed<S>> {
        self.touched = Touched::Record;
        self.finish(stamp, Touched::Nothing)
    }

    /// Like [`Transaction::seal`], for the last commit of the instance. No record needs to be in the
    /// log for it.
    pub(crate) fn seal_deletion(mut self, stamp: Stamp) -> Result<Sealed<S>> {
        self.deletes = true;
        self.seal(stamp, None)
    }

    /// `before` is what those have touched that share the line.
    fn finish(self, stamp: Stamp, before: Touched) -> Result<Sealed<S>> {
        let Self { mut draft, events, touched, deletes: deleted, at, .. } = self;
        draft.epoch = stamp.epoch;
        draft.writer = stamp.writer;
        draft.updated_at = at;
        let mut lines = Vec::with_capacity(events.len());
        for event in events {
            draft.last_event_seq += 1;
            lines.push(event.number(draft.last_event_seq, at, stamp.epoch, stamp.event_bytes)?);
        }
        let (touched, body) = match touched {
            Touched::Nothing => (touched, Body::nothing()),
            touched => encode(&mut draft, touched.max(before), stamp.record_bytes)?,
        };
        let encoded = body.json_len + lines.iter().map(|line| line.text.len()).sum::<usize>();
        let first = draft.revision;
        Ok(Sealed { record: Arc::new(draft), first, deleted, events: lines, touched, body, encoded })
    }
}

/// What the line says of the record: the state if nothing else is touched, unless all of it could be
/// longer than the limit.
fn encode<S: Serialize>(draft: &mut Record<S>, touched: Touched, limit: usize) -> Result<(Touched, Body)> {
    // What surrounds the state is not longer than a whole record was.
    let around = draft.whole.unwrap_or(limit).saturating_add(GROWTH);
    if touched == Touched::State && around < limit {
        let body = Body::state(&*draft.state)?;
        if body.json_len <= limit - around {
            return Ok((touched, body));
        }
    } else {
        strict::check("state", &*draft.state)?;
    }
    let body = Body::record(draft)?;
    record::check_size(body.json_len, limit)?;
    draft.whole = Some(body.json_len);
    Ok((Touched::Record, body))
}

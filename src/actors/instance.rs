//! The instance actor: the only writer of one instance.
//!
//! ```text
//! InstanceRef ──Asked──> inbox ──> actor ──Commit──> commit log
//!      ^                             │ current            │ durable
//!      │                             v                    v
//!      └───────────────────── published <──────── (in order) reply
//! ```
//!
//! The actor takes everything that waits in its inbox, applies one change after the other, and hands
//! all of them to the log as one line. It does not wait for the disk: what comes meanwhile is the next
//! line, so a busy instance pays for a line what an idle one does. When the line is durable the log
//! publishes the last record and then replies to each. Reads take what is published: they never see
//! what is not durable, and a caller that got its reply sees its own write.
//!
//! Its loop awaits nothing but a deletion, and its turn.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Permit, Queued};
use super::inbox::Inbox;
use super::registry::Occupant;
use super::request::{Asked, Committed, Request};
use super::transaction::{Sealed, Stamp, Transaction};
use crate::control::{Operation, WireDone};
use crate::error::{Error, Result, panic_message};
use crate::kind::Instance;
use crate::log::Log;
use crate::log::changes::ChangeFeed;
use crate::log::commit::{Body, Caller, Commit};
use crate::log::lane::Lane;
use crate::metrics;
use crate::options::Durability;
use crate::record::{Record, Status, Step};

pub(crate) enum InstanceMsg {
    /// Something has come into the inbox.
    Work,
    /// Delete the instance: commit that, and move its directory to the trash. The registry sends
    /// it when nothing else is under way. The reply is the name in the trash.
    Delete(RpcReplyPort<Result<Option<String>>>),
}

/// What the actor, the log and the handles share of one activation.
pub(crate) struct Core<S> {
    pub(crate) lane: Arc<Lane>,
    pub(crate) admission: Arc<Admission>,
    inbox: Inbox<Box<dyn Request<S>>>,
    /// The last durable record.
    published: Mutex<Arc<Record<S>>>,
    /// Hears of every commit.
    changes: Arc<ChangeFeed>,
    pub(crate) stamp: Stamp,
    durability: Durability,
    /// Set when somebody asks whoever works on the instance to stop.
    pub(crate) cancel: CancellationToken,
    /// Calls in this process that wait for an answer to the instance.
    pub(crate) waiters: AtomicUsize,
    /// Held while a file is written that follows a commit: see `checkpoint.rs` and `input.rs`.
    pub(crate) following: Mutex<()>,
    /// The status of what is published. Its receivers are those who attend to the instance.
    status: watch::Sender<Status>,
    /// Who works on the instance and acts on `cancel`.
    attending: AtomicUsize,
}

impl<S> Core<S> {
    pub(crate) fn new(
        lane: Arc<Lane>,
        admission: Arc<Admission>,
        record: Record<S>,
        changes: Arc<ChangeFeed>,
        stamp: Stamp,
        durability: Durability,
    ) -> Arc<Self> {
        let status = watch::Sender::new(record.status);
        Arc::new(Self {
            status,
            attending: AtomicUsize::new(0),
            lane,
            admission,
            inbox: Inbox::new(),
            published: Mutex::new(Arc::new(record)),
            changes,
            stamp,
            durability,
            cancel: CancellationToken::new(),
            waiters: AtomicUsize::new(0),
            following: Mutex::new(()),
        })
    }

    /// The last durable record.
    pub(crate) fn published(&self) -> Arc<Record<S>> {
        Arc::clone(&self.published.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the published status.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Notes that somebody works on the instance and acts on [`Core::cancel`].
    pub(crate) fn attend(self: &Arc<Self>) -> Attendance<S> {
        self.attending.fetch_add(1, Ordering::AcqRel);
        Attendance(Arc::clone(self))
    }

    /// Whether somebody works on the instance who would act on a request to stop.
    pub(crate) fn is_attended(&self) -> bool {
        self.attending.load(Ordering::Acquire) > 0
    }

    /// The commits of which the last made this record are as durable as they asked to be. Gives back
    /// what was published before.
    pub(super) fn publish(&self, record: Arc<Record<S>>, steps: impl Iterator<Item = Step>) -> Arc<Record<S>> {
        let changes: Option<Vec<_>> =
            self.changes.is_heard().then(|| steps.map(|step| step.change(&record, false)).collect());
        let (status, work) = (record.status, Arc::as_ptr(&record.work));
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *published, record);
        drop(published);
        if work != Arc::as_ptr(&before.work) {
            self.admission.changed.notify_waiters();
        }
        if status != before.status {
            // After the record, so that whoever follows the status finds it there.
            self.status.send_replace(status);
        }
        for change in changes.into_iter().flatten() {
            self.changes.publish(change);
        }
        before
    }
}

/// While it lives, somebody works on the instance.
pub(crate) struct Attendance<S>(Arc<Core<S>>);

impl<S> Drop for Attendance<S> {
    fn drop(&mut self) {
        self.0.attending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A live instance, as the registry and the handles hold it.
pub(crate) struct Live<I: Instance> {
    pub(crate) core: Arc<Core<I::State>>,
    pub(crate) actor: ActorRef<InstanceMsg>,
}

impl<I: Instance> Live<I> {
    /// Gives a live instance its actor.
    pub(crate) async fn spawn(core: Arc<Core<I::State>>, log: Arc<Log>, registry: ActorCell) -> Result<Arc<Self>> {
        let id = core.lane.id.clone();
        let actor = InstanceActor::<I> { core: Arc::clone(&core), log };
        let spawned = Actor::spawn_linked(None, actor, (), registry).await;
        // It fails when the registry is stopping.
        let (actor, _) = spawned.map_err(|error| {
            tracing::warn!(%id, %error, "no actor could be started");
            Error::Closed
        })?;
        Ok(Arc::new(Self { core, actor }))
    }

    /// Asks the actor for a change: the one place that sends it, and that turns what the framework says
    /// into an error of ours.
    pub(crate) fn ask<R, F>(
        &self,
        permit: Permit,
        durability: Option<Durability>,
        change: F,
    ) -> impl Future<Output = Result<Committed<R>>> + Send + use<I, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&mut Transaction<I::State>) -> Result<R> + Send + 'static,
    {
        let (asked, answer) = Asked::new(&self.core, permit, durability, change);
        let sent = match self.core.inbox.put(asked) {
            Some(wake) => !wake || self.actor.cast(InstanceMsg::Work).is_ok(),
            None => false,
        };
        let id = self.core.lane.id.clone();
        async move {
            let answer = if sent { answer.wait().await } else { None };
            answer.unwrap_or(Err(Error::Crashed { id }))
        }
    }
}

impl<I: Instance> Occupant for Live<I> {
    fn admission(&self) -> &Arc<Admission> {
        &self.core.admission
    }

    fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    fn lane(&self) -> &Arc<Lane> {
        &self.core.lane
    }

    fn delete(&self) -> BoxFuture<'static, Result<Option<String>>> {
        let (actor, id) = (self.actor.clone(), self.core.lane.id.clone());
        async move {
            let (reply, answer) = oneshot::channel();
            actor.cast(InstanceMsg::Delete(reply.into())).map_err(|_| Error::Crashed { id: id.clone() })?;
            answer.await.map_err(|_| Error::Crashed { id })?
        }
        .boxed()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn control(self: Arc<Self>, operation: Operation, queued: Queued) -> BoxFuture<'static, Result<Option<WireDone>>> {
        async move {
            match self.core.admission.enter(queued)? {
                Some(permit) => self.perform(operation, permit).await.map(Some),
                None => Ok(None),
            }
        }
        .boxed()
    }
}

struct InstanceActor<I: Instance> {
    core: Arc<Core<I::State>>,
    log: Arc<Log>,
}

impl<I: Instance> Drop for InstanceActor<I> {
    /// Whoever waits in the inbox waits in vain.
    fn drop(&mut self) {
        self.core.inbox.close();
    }
}

/// Most changes between two looks at the other messages, so that no thread of the runtime is held for
/// long.
const AT_ONCE: usize = 256;

/// From how many bytes on, encoded for its commits, a line takes no further one in: those that were
/// made first do not wait for ever more of the others.
const LINE_BYTES: usize = 256 << 10;

/// For how many changes room is kept in an instance that is idle.
const ROOM_KEPT: usize = 16;

struct State<S> {
    /// The record with every commit that was handed to the log, durable or not.
    current: Arc<Record<S>>,
    /// See [`Lane::generation`].
    generation: u64,
    /// Room for what is taken out of the inbox.
    room: Vec<Box<dyn Request<S>>>,
    /// Whether several changes waited together the last time.
    together: bool,
}

/// Changes that have been made, each on the one before, and go to the log as one line.
struct Run<S> {
    sealed: Sealed<S>,
    /// The more demanding of those that they asked for.
    durability: Durability,
    first: Box<dyn Request<S>>,
    others: Vec<Box<dyn Request<S>>>,
}

impl<S> Run<S> {
    fn join(&mut self, sealed: Sealed<S>, durability: Durability, request: Box<dyn Request<S>>) {
        self.sealed.join(sealed);
        if durability == Durability::Disk {
            self.durability = durability;
        }
        self.others.push(request);
    }
}

impl<I: Instance> InstanceActor<I> {
    /// Goes back to the last durable record when a commit was not applied: those behind it are
    /// refused by the log, because they were computed on a state that never was.
    fn follow_generation(&self, state: &mut State<I::State>) {
        let generation = self.core.lane.generation();
        if generation != state.generation {
            state.generation = generation;
            state.current = self.core.published();
        }
    }

    /// Does what waits, and says whether there is more.
    fn work(&self, state: &mut State<I::State>) -> bool {
        let mut requests = std::mem::take(&mut state.room);
        let more = self.core.inbox.take(&mut requests, AT_ONCE);
        state.together = requests.len() > 1;
        self.follow_generation(state);
        let id = &self.core.lane.id;
        // What the closures tell is known to be of this instance.
        let _span = tracing::debug_span!("commit", %id, epoch = self.core.stamp.epoch).entered();
        let mut run = None;
        for request in requests.drain(..) {
            if self.core.lane.is_gone() {
                let path = self.core.lane.dir.path().to_owned();
                request.told(Err(Error::Gone { id: id.clone(), path }));
                continue;
            }
            if let Some(full) = run.take_if(|run: &mut Run<_>| run.sealed.encoded >= LINE_BYTES) {
                self.submit(state, full);
            }
            self.change(state, &mut run, request);
        }
        if let Some(run) = run {
            self.submit(state, run);
        }
        if requests.capacity() <= ROOM_KEPT {
            state.room = requests;
        }
        more
    }

    /// Makes one change, behind those of the run. One that fails leaves nothing behind.
    fn change(
        &self,
        state: &State<I::State>,
        run: &mut Option<Run<I::State>>,
        mut request: Box<dyn Request<I::State>>,
    ) {
        // The closure works on a copy, so a panic or an error in it changes nothing. The user's
        // `Serialize` runs in here too.
        let made = catch_unwind(AssertUnwindSafe(|| {
            let earlier = run.as_ref().map(|run| &run.sealed);
            let mut transaction = Transaction::new(earlier.map_or(&state.current, |earlier| &earlier.record));
            request.apply(&mut transaction)?;
            let durability = transaction.durability.or(request.durability()).unwrap_or(self.core.durability);
            Ok((durability, transaction.seal(self.core.stamp, earlier)?))
        }));
        let made = made.unwrap_or_else(|panic| {
            metrics::CRASHES_CLOSURE.add(1);
            let (id, message) = (&self.core.lane.id, panic_message(&*panic));
            tracing::warn!(%id, epoch = self.core.stamp.epoch, message, "the closure of a commit panicked");
            Err(Error::Panicked { what: format!("instance {id:?}"), message })
        });
        let (durability, sealed) = match made {
            Ok(made) => made,
            Err(error) => return request.told(Err(error)),
        };
        request.made(&sealed.record);
        match run {
            Some(run) => run.join(sealed, durability, request),
            None => *run = Some(Run { sealed, durability, first: request, others: Vec::new() }),
        }
    }

    fn submit(&self, state: &mut State<I::State>, run: Run<I::State>) {
        let Run { sealed, durability, mut first, others } = run;
        let record = Arc::clone(&sealed.record);
        first.lead(Arc::clone(&record), others);
        let (commit, body) = to_commit(&self.core, state.generation, sealed, durability, first);
        if self.log.submit(commit, body) {
            state.current = record;
        }
    }

    async fn delete(&self, state: &mut State<I::State>) -> Result<Option<String>> {
        self.follow_generation(state);
        let sealed = Transaction::new(&state.current).seal_deletion(self.core.stamp)?;
        submit_and_wait(&self.log, &self.core, state.generation, sealed, Durability::Disk).await?;
        let lane = Arc::clone(&self.core.lane);
        crate::blocking::run(move || lane.discard()).await
    }
}

/// Who waits in the crate.
struct WaitingHere<S> {
    record: Arc<Record<S>>,
    deleted: bool,
    changes: Arc<ChangeFeed>,
    reply: oneshot::Sender<Result<()>>,
}

impl<S: Send + Sync> Caller for WaitingHere<S> {
    fn applied(&mut self) {
        if self.changes.is_heard() {
            self.changes.publish(Step::of(&self.record).change(&self.record, self.deleted));
        }
    }

    fn told(self: Box<Self>, outcome: Result<()>) {
        let _ = self.reply.send(outcome);
    }
}

fn to_commit<S: serde::Serialize + Send + Sync + 'static>(
    core: &Core<S>,
    generation: u64,
    sealed: Sealed<S>,
    durability: Durability,
    caller: Box<dyn Caller>,
) -> (Commit, Body) {
    let commit = Commit {
        lane: Arc::clone(&core.lane),
        generation,
        first: sealed.first,
        revision: sealed.record.revision,
        at: sealed.record.updated_at,
        last_event_seq: sealed.record.last_event_seq,
        deleted: sealed.deleted,
        running: sealed.record.status.is_running() && !sealed.deleted,
        has_record: sealed.has_record(),
        record: sealed.record,
        line: 0..0,
        events: sealed.events,
        durability,
        caller,
    };
    (commit, sealed.body)
}

/// Commits, and waits until that is durable.
pub(crate) async fn submit_and_wait<S: serde::Serialize + Send + Sync + 'static>(
    log: &Log,
    core: &Core<S>,
    generation: u64,
    sealed: Sealed<S>,
    durability: Durability,
) -> Result<()> {
    let (reply, answer) = oneshot::channel();
    let id = core.lane.id.clone();
    let record = Arc::clone(&sealed.record);
    let caller = WaitingHere { record, deleted: sealed.deleted, changes: Arc::clone(&core.changes), reply };
    let (commit, body) = to_commit(core, generation, sealed, durability, Box::new(caller));
    log.submit(commit, body);
    answer.await.map_err(|_| Error::Crashed { id })?
}

impl<I: Instance> Actor for InstanceActor<I> {
    type Msg = InstanceMsg;
    type State = State<I::State>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        let (current, generation) = (self.core.published(), self.core.lane.generation());
        Ok(State { current, generation, room: Vec::new(), together: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            InstanceMsg::Work => {
                // Callers that were answered together ask again together, but the first of them has
                // woken the actor already. The others go first, and share its line.
                if state.together || self.core.admission.is_shared() {
                    tokio::task::yield_now().await;
                }
                if self.work(state) {
                    // It fails when the actor is being stopped: what waits is dropped then.
                    let _ = myself.cast(InstanceMsg::Work);
                }
            }
            InstanceMsg::Delete(reply) => {
                // Boxed: its future would be a part of every idle actor.
                let _ = reply.send(Box::pin(self.delete(state)).await);
            }
        }
        Ok(())
    }
}

//! The registry actor: which instances are live, and who may be.
//!
//! ```text
//! InstanceRef ──Get──> registry ──(not live)──> task: open + spawn ──Opened──> registry
//!      ^                  │                                                        │
//!      └─────live─────────┴────────────────<────────────────────────────────────────┘
//!
//! idle, or the limit is reached:
//!   close admission -> drained -> task: files up to date, lock let go ──Released──> registry
//!   (a Get that comes meanwhile waits here, and opens the instance anew)
//! ```
//!
//! Its loop awaits nothing: disks are waited for in tasks.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::admission::{Admission, Permit, Queued};
use super::crashes::{Crashes, WINDOW};
use crate::control::{Operation, WireDone};
use crate::error::{Error, Result};
use crate::log::lane::Lane;
use crate::metrics;
use crate::options::Options;
use crate::record::InstanceId;

/// How often the limit is looked at again while somebody waits for a place.
const RETRY: Duration = Duration::from_millis(1);

/// How long a failed release waits for its next try: the disk may have room by then.
const RELEASE_RETRY: Duration = Duration::from_millis(500);

/// Part of the live instances that is chosen to go at once, when the limit is reached.
const VICTIMS: usize = 16;

/// A live instance of whatever kind.
pub(crate) trait Occupant: Send + Sync {
    fn admission(&self) -> &Arc<Admission>;
    fn cell(&self) -> ActorCell;
    fn lane(&self) -> &Arc<Lane>;
    /// Deletes the instance. Only when it is closed and drained.
    fn delete(&self) -> BoxFuture<'static, Result<Option<String>>>;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    /// Does what another process asks for; `None` when the instance is closed by now.
    fn control(self: Arc<Self>, operation: Operation, queued: Queued) -> BoxFuture<'static, Result<Option<WireDone>>>;
}

/// Brings an instance to life: knows its kind, which the registry does not.
pub(crate) type Opener = Box<dyn FnOnce(ActorCell) -> BoxFuture<'static, Result<Arc<dyn Occupant>>> + Send>;

/// A live instance, and the right to one operation in it.
pub(crate) type Admitted = (Arc<dyn Any + Send + Sync>, Permit);

pub(crate) enum RegistryMsg {
    /// The live instance, brought to life if it is not. `create` means that it must not exist.
    Get {
        id: InstanceId,
        create: bool,
        opener: Opener,
        queued: Queued,
        reply: RpcReplyPort<Result<Admitted>>,
    },
    /// Delete the instance, which is brought to life first if it is not live.
    Delete {
        id: InstanceId,
        opener: Opener,
        reply: RpcReplyPort<Result<Option<String>>>,
    },
    /// Let an instance go if nobody uses it: whoever worked on it is done.
    Release(InstanceId),
    /// The instance if it is live, without bringing it to life.
    Find {
        id: InstanceId,
        reply: RpcReplyPort<Option<Arc<dyn Occupant>>>,
    },
    /// The number of live instances.
    Count(RpcReplyPort<usize>),
    /// Let everything go, and take nothing more.
    Shutdown(RpcReplyPort<Result<()>>),
    Opened {
        id: InstanceId,
        outcome: Result<Arc<dyn Occupant>>,
    },
    Released {
        id: InstanceId,
        outcome: Result<()>,
    },
    Deleted {
        id: InstanceId,
        outcome: Result<Option<String>>,
    },
    /// Look at who is idle, who waits too long, and who can have a place.
    Tick,
    Retry,
}

/// Somebody who wants an instance that is not live.
struct Waiter {
    create: bool,
    opener: Opener,
    since: Instant,
    want: Want,
}

enum Want {
    Use { queued: Queued, reply: RpcReplyPort<Result<Admitted>> },
    Delete(RpcReplyPort<Result<Option<String>>>),
}

/// Why an instance is let go.
enum Leaves {
    Idle,
    /// It made room for another.
    Evicted,
    /// Whoever worked on it is done.
    Released,
    ShutDown,
    Crashed,
    Deleted(RpcReplyPort<Result<Option<String>>>),
}

impl Leaves {
    fn tell(&self, lane: &Lane) {
        let (counter, reason) = match self {
            Self::Idle => (&metrics::PASSIVATED_IDLE, "idle"),
            Self::Evicted => (&metrics::PASSIVATED_LIMIT, "limit"),
            Self::Released => (&metrics::PASSIVATED_REQUEST, "request"),
            Self::ShutDown => (&metrics::PASSIVATED_SHUTDOWN, "shutdown"),
            // Told where they happen, and no passivations.
            Self::Crashed | Self::Deleted(_) => return,
        };
        counter.add(1);
        tracing::debug!(id = %lane.id, epoch = lane.epoch, reason, "an instance is let go");
    }
}

enum Slot {
    /// Wanted, and waiting for a place.
    Waiting(VecDeque<Waiter>),
    /// Being brought to life for the first of these.
    Opening(Opening),
    Live(Arc<dyn Occupant>),
    /// On its way out. The waiters open it anew.
    Closing {
        occupant: Arc<dyn Occupant>,
        waiters: VecDeque<Waiter>,
        deletion: Option<RpcReplyPort<Result<Option<String>>>>,
    },
}

struct Opening {
    first: Want,
    create: bool,
    others: VecDeque<Waiter>,
}

pub(crate) struct Registry {
    pub(crate) options: Options,
}

pub(crate) struct State {
    slots: HashMap<InstanceId, Slot>,
    /// Ids in `Waiting`, oldest first.
    queue: VecDeque<InstanceId>,
    /// Which instance an actor belongs to.
    actors: HashMap<ActorId, InstanceId>,
    /// The least recently used, chosen at the last look, oldest first.
    victims: VecDeque<(InstanceId, Instant)>,
    opening: usize,
    /// Slots that are not `Waiting`.
    occupied: usize,
    /// Of them, those that have been brought to life.
    living: usize,
    told: metrics::Part,
    crashes: Crashes,
    retry_due: bool,
    shutdown: Option<RpcReplyPort<Result<()>>>,
    shutdown_error: Option<Error>,
    closed: bool,
}

impl Want {
    fn refuse(self, error: Error) {
        // A caller that gave up is no error.
        match self {
            Self::Use { reply, .. } => drop(reply.send(Err(error))),
            Self::Delete(reply) => drop(reply.send(Err(error))),
        }
    }
}

impl Registry {
    fn want(&self, myself: &ActorRef<RegistryMsg>, state: &mut State, id: InstanceId, waiter: Waiter) {
        if state.closed {
            return waiter.want.refuse(Error::Closed);
        }
        let crashes = state.crashes.recent(&id);
        if crashes >= self.options.crashes_per_minute {
            return waiter.want.refuse(Error::CrashLoop { id, crashes, window: WINDOW });
        }
        match state.slots.get_mut(&id) {
            None => {
                state.slots.insert(id.clone(), Slot::Waiting(VecDeque::from([waiter])));
                state.queue.push_back(id);
            }
            Some(
                Slot::Waiting(waiters) | Slot::Closing { waiters, .. } | Slot::Opening(Opening { others: waiters, .. }),
            ) => {
                waiters.push_back(waiter);
            }
            Some(Slot::Live(occupant)) => {
                let occupant = Arc::clone(occupant);
                Self::serve(myself, state, &id, &occupant, waiter.want, waiter.create);
            }
        }
    }

    /// Gives a live instance to somebody who wants it.
    fn serve(
        myself: &ActorRef<RegistryMsg>,
        state: &mut State,
        id: &InstanceId,
        occupant: &Arc<dyn Occupant>,
        want: Want,
        create: bool,
    ) {
        match want {
            _ if create => {
                want.refuse(Error::AlreadyExists { id: id.clone(), path: occupant.lane().dir.path().to_owned() });
            }
            Want::Use { queued, reply } => {
                let admitted = occupant.admission().enter(queued);
                // Only the registry closes an admission, and this one is live.
                let admitted = admitted.and_then(|permit| permit.ok_or_else(|| Error::Crashed { id: id.clone() }));
                let _ = reply.send(admitted.map(|permit| (Arc::clone(occupant).into_any(), permit)));
            }
            Want::Delete(reply) => {
                occupant.admission().close();
                Self::close(myself, state, id, Leaves::Deleted(reply));
            }
        }
    }

    /// Brings to life whoever waits, as far as there are places.
    fn fill(&self, myself: &ActorRef<RegistryMsg>, state: &mut State) {
        while state.opening < self.options.activations_at_once {
            let Some(id) = state.queue.front() else { return };
            if !matches!(state.slots.get(id), Some(Slot::Waiting(_))) {
                state.queue.pop_front();
                continue;
            }
            if state.occupied >= self.options.live_instances {
                break;
            }
            if let Some(id) = state.queue.pop_front() {
                Self::open(myself, state, id);
            }
        }
        if state.queue.is_empty() || state.occupied < self.options.live_instances {
            return;
        }
        // Every place is taken: as many of the least recently used go as are waited for.
        let closing = state.occupied.saturating_sub(state.opening + state.actors.len());
        let wanted = state.queue.len().min(self.options.activations_at_once).saturating_sub(closing);
        for _ in 0..wanted {
            if !Self::evict(myself, state) {
                break;
            }
        }
        if !std::mem::replace(&mut state.retry_due, true) {
            myself.send_after(RETRY, || RegistryMsg::Retry);
        }
    }

    fn open(myself: &ActorRef<RegistryMsg>, state: &mut State, id: InstanceId) {
        let Some(Slot::Waiting(mut others)) = state.slots.remove(&id) else { return };
        let Some(first) = others.pop_front() else { return };
        state.slots.insert(id.clone(), Slot::Opening(Opening { first: first.want, create: first.create, others }));
        state.opening += 1;
        state.occupied += 1;
        let (myself, opening) = (myself.clone(), (first.opener)(myself.get_cell()));
        tokio::spawn(async move {
            let failed = || Err(Error::Crashed { id: id.clone() });
            let outcome = std::panic::AssertUnwindSafe(opening).catch_unwind().await.unwrap_or_else(|_| failed());
            let _ = myself.cast(RegistryMsg::Opened { id, outcome });
        });
    }

    fn opened(
        &self,
        myself: &ActorRef<RegistryMsg>,
        state: &mut State,
        id: &InstanceId,
        outcome: Result<Arc<dyn Occupant>>,
    ) {
        let Some(Slot::Opening(Opening { first, create, others })) = state.slots.remove(id) else { return };
        state.opening -= 1;
        match outcome {
            Ok(occupant) => {
                (if create { &metrics::CREATED } else { &metrics::OPENED }).add(1);
                tracing::debug!(%id, epoch = occupant.lane().epoch, "an instance is live");
                state.living += 1;
                state.actors.insert(occupant.cell().get_id(), id.clone());
                state.slots.insert(id.clone(), Slot::Live(Arc::clone(&occupant)));
                Self::serve(myself, state, id, &occupant, first, false);
                for waiter in others {
                    self.want(myself, state, id.clone(), waiter);
                }
                if state.closed {
                    occupant.admission().close();
                    Self::close(myself, state, id, Leaves::ShutDown);
                }
            }
            Err(error) => {
                state.occupied -= 1;
                // Somebody who wants to create it has another chance than somebody who wants to
                // use it, and the other way round.
                let (again, same): (VecDeque<_>, VecDeque<_>) = others.into_iter().partition(|w| w.create != create);
                first.refuse(error.clone());
                for waiter in same {
                    waiter.want.refuse(error.clone());
                }
                for waiter in again {
                    self.want(myself, state, id.clone(), waiter);
                }
            }
        }
    }

    /// Lets one idle instance go, the least recently used; `false` when none is idle.
    fn evict(myself: &ActorRef<RegistryMsg>, state: &mut State) -> bool {
        for look_again in [true, false] {
            while let Some((id, last_used)) = state.victims.pop_front() {
                let Some(Slot::Live(occupant)) = state.slots.get(&id) else { continue };
                // Used since it was chosen: it has earned its place.
                if occupant.admission().last_used() <= last_used && occupant.admission().close_if_idle() {
                    Self::close(myself, state, &id, Leaves::Evicted);
                    return true;
                }
            }
            if look_again {
                state.choose_victims();
            }
        }
        false
    }

    /// Begins the release of an instance whose admission is closed.
    fn close(myself: &ActorRef<RegistryMsg>, state: &mut State, id: &InstanceId, leaves: Leaves) {
        let Some(Slot::Live(occupant)) = state.slots.remove(id) else { return };
        state.actors.remove(&occupant.cell().get_id());
        leaves.tell(occupant.lane());
        let deletion = if let Leaves::Deleted(reply) = leaves { Some(reply) } else { None };
        let delete = deletion.is_some();
        state
            .slots
            .insert(id.clone(), Slot::Closing { occupant: Arc::clone(&occupant), waiters: VecDeque::new(), deletion });
        let (myself, id) = (myself.clone(), id.clone());
        tokio::spawn(async move {
            occupant.admission().drained().await;
            let message = if delete {
                let span = tracing::info_span!("delete", %id, epoch = occupant.lane().epoch);
                RegistryMsg::Deleted { id, outcome: occupant.delete().instrument(span).await }
            } else {
                release(id, &occupant).await
            };
            let _ = myself.cast(message);
        });
    }

    fn released(&self, myself: &ActorRef<RegistryMsg>, state: &mut State, id: InstanceId, outcome: Result<()>) {
        let Some(Slot::Closing { occupant, waiters, .. }) = state.slots.get_mut(&id) else { return };
        if let Err(error) = outcome {
            // The lock is kept: whoever came next would read files that lack commits.
            tracing::warn!(%id, epoch = occupant.lane().epoch, %error, "an instance cannot be let go yet, because its files cannot be written");
            for waiter in waiters.drain(..) {
                waiter.want.refuse(error.clone());
            }
            state.shutdown_error.get_or_insert(error);
            if state.shutdown.is_none() {
                let (myself, occupant) = (myself.clone(), Arc::clone(occupant));
                tokio::spawn(async move {
                    tokio::time::sleep(RELEASE_RETRY).await;
                    let _ = myself.cast(release(id, &occupant).await);
                });
                return;
            }
        }
        let Some(Slot::Closing { occupant, waiters, .. }) = state.slots.remove(&id) else { return };
        occupant.cell().stop(None);
        state.occupied -= 1;
        state.living -= 1;
        for waiter in waiters {
            self.want(myself, state, id.clone(), waiter);
        }
    }

    fn deleted(
        &self,
        myself: &ActorRef<RegistryMsg>,
        state: &mut State,
        id: InstanceId,
        outcome: Result<Option<String>>,
    ) {
        let Some(Slot::Closing { deletion, occupant, .. }) = state.slots.get_mut(&id) else { return };
        let failed = outcome.is_err();
        if let Some(reply) = deletion.take() {
            let _ = reply.send(outcome);
        }
        if failed {
            // It lives on: let go like any other, and opened anew by its next use.
            let (myself, occupant) = (myself.clone(), Arc::clone(occupant));
            tokio::spawn(async move {
                let _ = myself.cast(release(id, &occupant).await);
            });
        } else {
            self.released(myself, state, id, Ok(()));
        }
    }

    /// The actor of an instance ended without being asked to.
    fn crashed(myself: &ActorRef<RegistryMsg>, state: &mut State, actor: &ActorCell, reason: &str) {
        let Some(id) = state.actors.get(&actor.get_id()).cloned() else { return };
        let epoch = match state.slots.get(&id) {
            Some(Slot::Live(occupant)) => Some(occupant.lane().epoch),
            _ => None,
        };
        metrics::CRASHES_ACTOR.add(1);
        tracing::error!(%id, epoch, reason, "the actor of an instance crashed");
        state.crashes.note(&id);
        if let Some(Slot::Live(occupant)) = state.slots.get(&id) {
            occupant.admission().close();
            Self::close(myself, state, &id, Leaves::Crashed);
        }
    }

    fn tick(&self, myself: &ActorRef<RegistryMsg>, state: &mut State) {
        let idle = self.options.idle_after;
        let idle: Vec<InstanceId> = state
            .live()
            .filter(|(_, a)| a.last_used().elapsed() >= idle && a.close_if_idle())
            .map(|(id, _)| id.clone())
            .collect();
        for id in idle {
            Self::close(myself, state, &id, Leaves::Idle);
        }
        let (patience, limit) = (self.options.activation_wait, self.options.live_instances as u64);
        for slot in state.slots.values_mut() {
            let Slot::Waiting(waiters) = slot else { continue };
            while waiters.front().is_some_and(|w| w.since.elapsed() >= patience) {
                if let Some(waiter) = waiters.pop_front() {
                    metrics::OVERLOADED_LIVE.add(1);
                    waiter
                        .want
                        .refuse(Error::Overloaded { what: "live instances, all of them busy or kept awake", limit });
                }
            }
        }
        let slots = &mut state.slots;
        state.queue.retain(|id| {
            let given_up = matches!(slots.get(id), Some(Slot::Waiting(waiters)) if waiters.is_empty());
            if given_up {
                slots.remove(id);
            }
            !given_up
        });
    }

    fn shut_down(myself: &ActorRef<RegistryMsg>, state: &mut State, reply: RpcReplyPort<Result<()>>) {
        state.closed = true;
        state.shutdown = Some(reply);
        for id in std::mem::take(&mut state.queue) {
            if let Some(Slot::Waiting(waiters)) = state.slots.remove(&id) {
                for waiter in waiters {
                    waiter.want.refuse(Error::Closed);
                }
            }
        }
        let live: Vec<InstanceId> = state
            .live()
            .map(|(id, admission)| {
                admission.close();
                id.clone()
            })
            .collect();
        for id in live {
            Self::close(myself, state, &id, Leaves::ShutDown);
        }
    }
}

/// Brings the files up to date and lets the lock go.
async fn release(id: InstanceId, occupant: &Arc<dyn Occupant>) -> RegistryMsg {
    let lane = Arc::clone(occupant.lane());
    let span = tracing::info_span!("passivate", %id, epoch = lane.epoch);
    let outcome = crate::blocking::run(move || lane.release()).instrument(span).await;
    RegistryMsg::Released { id, outcome }
}

impl State {
    fn live(&self) -> impl Iterator<Item = (&InstanceId, &Arc<Admission>)> {
        self.slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Live(occupant) => Some((id, occupant.admission())),
            _ => None,
        })
    }

    /// Looks at all live instances once, and notes the least recently used for the next evictions.
    fn choose_victims(&mut self) {
        let mut all: Vec<_> = self.live().map(|(id, a)| (id.clone(), a.last_used())).collect();
        let most = (all.len() / VICTIMS).max(VICTIMS).min(all.len());
        if most > 0 && most < all.len() {
            all.select_nth_unstable_by_key(most - 1, |(_, used)| *used);
            all.truncate(most);
        }
        all.sort_unstable_by_key(|(_, used)| *used);
        self.victims = all.into();
    }
}

impl Actor for Registry {
    type Msg = RegistryMsg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<RegistryMsg>, (): ()) -> Result<State, ActorProcessingErr> {
        let every = (self.options.idle_after / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        myself.send_interval(every, || RegistryMsg::Tick);
        Ok(State {
            slots: HashMap::new(),
            queue: VecDeque::new(),
            actors: HashMap::new(),
            victims: VecDeque::new(),
            opening: 0,
            occupied: 0,
            living: 0,
            told: metrics::Part::default(),
            crashes: Crashes::default(),
            retry_due: false,
            shutdown: None,
            shutdown_error: None,
            closed: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistryMsg>,
        message: RegistryMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let since = Instant::now();
        match message {
            RegistryMsg::Get { id, create, opener, queued, reply } => {
                self.want(&myself, state, id, Waiter { create, opener, since, want: Want::Use { queued, reply } });
            }
            RegistryMsg::Delete { id, opener, reply } => {
                self.want(&myself, state, id, Waiter { create: false, opener, since, want: Want::Delete(reply) });
            }
            RegistryMsg::Release(id) => {
                if let Some(Slot::Live(occupant)) = state.slots.get(&id)
                    && occupant.admission().close_if_idle()
                {
                    Self::close(&myself, state, &id, Leaves::Released);
                }
            }
            RegistryMsg::Find { id, reply } => {
                let live = match state.slots.get(&id) {
                    Some(Slot::Live(occupant)) => Some(Arc::clone(occupant)),
                    _ => None,
                };
                let _ = reply.send(live);
            }
            RegistryMsg::Count(reply) => {
                let _ = reply.send(state.occupied);
            }
            RegistryMsg::Shutdown(reply) => Self::shut_down(&myself, state, reply),
            RegistryMsg::Opened { id, outcome } => self.opened(&myself, state, &id, outcome),
            RegistryMsg::Released { id, outcome } => self.released(&myself, state, id, outcome),
            RegistryMsg::Deleted { id, outcome } => self.deleted(&myself, state, id, outcome),
            RegistryMsg::Tick => self.tick(&myself, state),
            RegistryMsg::Retry => state.retry_due = false,
        }
        self.fill(&myself, state);
        state.told.set(&metrics::LIVE_INSTANCES, state.living);
        if state.slots.is_empty()
            && let Some(reply) = state.shutdown.take()
        {
            let _ = reply.send(state.shutdown_error.take().map_or(Ok(()), Err));
        }
        Ok(())
    }

    /// The default would stop the registry when an instance's actor dies.
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<RegistryMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => Self::crashed(&myself, state, &actor, &error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                Self::crashed(&myself, state, &actor, reason.as_deref().unwrap_or("it was stopped"));
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Instances on their way out: nobody uses them, they are deleted, or their actor crashed. None is
//! let go before its files are up to date.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorCell, ActorRef, RpcReplyPort};
use tracing::Instrument as _;

use super::slots::{Slot, State};
use super::{Occupant, Registry, RegistryMsg};
use crate::error::Result;
use crate::log::lane::Lane;
use crate::metrics;
use crate::record::InstanceId;

/// How long a failed release waits for its next try: the disk may have room by then.
const RELEASE_RETRY: Duration = Duration::from_millis(500);

/// Why an instance is let go.
pub(super) enum Leaves {
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

impl Registry {
    /// Lets one idle instance go, the least recently used; `false` when none is idle.
    pub(super) fn evict(myself: &ActorRef<RegistryMsg>, state: &mut State) -> bool {
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
    pub(super) fn close(myself: &ActorRef<RegistryMsg>, state: &mut State, id: &InstanceId, leaves: Leaves) {
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

    pub(super) fn released(
        &self,
        myself: &ActorRef<RegistryMsg>,
        state: &mut State,
        id: InstanceId,
        outcome: Result<()>,
    ) {
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

    pub(super) fn deleted(
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
    pub(super) fn crashed(myself: &ActorRef<RegistryMsg>, state: &mut State, actor: &ActorCell, reason: &str) {
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
}

/// Brings the files up to date and lets the lock go.
async fn release(id: InstanceId, occupant: &Arc<dyn Occupant>) -> RegistryMsg {
    let lane = Arc::clone(occupant.lane());
    let span = tracing::info_span!("passivate", %id, epoch = lane.epoch);
    let outcome = crate::blocking::run(move || lane.release()).instrument(span).await;
    RegistryMsg::Released { id, outcome }
}

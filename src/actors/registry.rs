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

mod arriving;
mod leaving;
mod slots;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::time::Instant;

use super::admission::{Admission, Permit, Queued};
use crate::control::{Operation, WireDone};
use crate::error::{Error, Result};
use crate::log::lane::Lane;
use crate::metrics;
use crate::options::Options;
use crate::record::InstanceId;
use leaving::Leaves;
use slots::{Slot, State, Waiter, Want};

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

pub(crate) struct Registry {
    pub(crate) options: Options,
}

impl Registry {
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

impl Actor for Registry {
    type Msg = RegistryMsg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<RegistryMsg>, (): ()) -> Result<State, ActorProcessingErr> {
        let every = (self.options.idle_after / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        myself.send_interval(every, || RegistryMsg::Tick);
        Ok(State::default())
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

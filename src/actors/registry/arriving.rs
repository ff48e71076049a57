//! Instances that are wanted: they wait for a place, are brought to life, and serve who waited. No
//! disk is waited for here: opening runs in a task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use ractor::ActorRef;

use super::leaving::Leaves;
use super::slots::{Opening, Slot, State, Waiter, Want};
use super::{Occupant, Registry, RegistryMsg};
use crate::actors::crashes::WINDOW;
use crate::error::{Error, Result};
use crate::metrics;
use crate::record::InstanceId;

/// How often the limit is looked at again while somebody waits for a place.
const RETRY: Duration = Duration::from_millis(1);

impl Registry {
    pub(super) fn want(&self, myself: &ActorRef<RegistryMsg>, state: &mut State, id: InstanceId, waiter: Waiter) {
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
    pub(super) fn fill(&self, myself: &ActorRef<RegistryMsg>, state: &mut State) {
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

    pub(super) fn opened(
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
}

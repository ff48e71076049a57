//! What the registry knows of each instance, and who waits for it. Nothing is begun here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ractor::{ActorId, RpcReplyPort};
use tokio::time::Instant;

use super::{Admitted, Occupant, Opener};
use crate::actors::admission::{Admission, Queued};
use crate::actors::crashes::Crashes;
use crate::error::{Error, Result};
use crate::metrics;
use crate::record::InstanceId;

/// Part of the live instances that is chosen to go at once, when the limit is reached.
const VICTIMS: usize = 16;

/// Somebody who wants an instance that is not live.
pub(super) struct Waiter {
    pub(super) create: bool,
    pub(super) opener: Opener,
    pub(super) since: Instant,
    pub(super) want: Want,
}

pub(super) enum Want {
    Use { queued: Queued, reply: RpcReplyPort<Result<Admitted>> },
    Delete(RpcReplyPort<Result<Option<String>>>),
}

pub(super) enum Slot {
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

pub(super) struct Opening {
    pub(super) first: Want,
    pub(super) create: bool,
    pub(super) others: VecDeque<Waiter>,
}

impl Want {
    pub(super) fn refuse(self, error: Error) {
        // A caller that gave up is no error.
        match self {
            Self::Use { reply, .. } => drop(reply.send(Err(error))),
            Self::Delete(reply) => drop(reply.send(Err(error))),
        }
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(super) slots: HashMap<InstanceId, Slot>,
    /// Ids in `Waiting`, oldest first.
    pub(super) queue: VecDeque<InstanceId>,
    /// Which instance an actor belongs to.
    pub(super) actors: HashMap<ActorId, InstanceId>,
    /// The least recently used, chosen at the last look, oldest first.
    pub(super) victims: VecDeque<(InstanceId, Instant)>,
    pub(super) opening: usize,
    /// Slots that are not `Waiting`.
    pub(super) occupied: usize,
    /// Of them, those that have been brought to life.
    pub(super) living: usize,
    pub(super) told: metrics::Part,
    pub(super) crashes: Crashes,
    pub(super) retry_due: bool,
    pub(super) shutdown: Option<RpcReplyPort<Result<()>>>,
    pub(super) shutdown_error: Option<Error>,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn live(&self) -> impl Iterator<Item = (&InstanceId, &Arc<Admission>)> {
        self.slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Live(occupant) => Some((id, occupant.admission())),
            _ => None,
        })
    }

    /// Looks at all live instances once, and notes the least recently used for the next evictions.
    pub(super) fn choose_victims(&mut self) {
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

//! The three actors: one per live instance, the registry of them, and the factory of what is
//! prepared once. The only place, with the two handles, that knows `ractor`.

mod admission;
mod control;
mod crashes;
pub(crate) mod factory;
mod inbox;
pub(crate) mod instance;
pub(crate) mod registry;
pub(crate) mod request;
pub(crate) mod transaction;

pub(crate) use admission::{Admission, Hold, Permit, Queued};

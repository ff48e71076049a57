//! The kinds of this module, for whoever brings a whole root up to date. Nothing is migrated here.

use super::batch::BatchKind;
use super::command::CommandJob;
use crate::migration::Migration;

/// A [`Migration`] that knows the kinds `job` and `batch`.
#[must_use]
pub fn migration() -> Migration {
    Migration::new().kind::<CommandJob>().kind::<BatchKind>()
}

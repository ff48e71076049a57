//! The kinds of this module, for whoever brings a whole root up to date. Nothing is migrated here.

use super::batch::BatchKind;
use super::command::CommandJob;
use crate::migration::Migration;

/// A [`Migration`] that knows the kinds `job` and `batch`.
///
/// ```
/// use futures::StreamExt as _;
/// use fiefdom::jobs;
///
/// # use fiefdom::{Store, Untyped, jobs::Batch};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = Store::open(dir.path(), Untyped).await?;
/// # let batch = Batch::create(&store, ["alpha", "beta"].map(String::from)).await?;
/// let migration = jobs::migration(); // and `.kind::<MyKind>()` for kinds of your own
/// let looked_at: Vec<_> = migration.run(&store).await?.collect().await;
/// assert_eq!(looked_at.len(), 1); // the batch, which is up to date
/// # drop(batch);
/// # store.shutdown().await }
/// ```
#[must_use]
pub fn migration() -> Migration {
    Migration::new().kind::<CommandJob>().kind::<BatchKind>()
}

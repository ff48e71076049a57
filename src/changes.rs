//! The change feed as its readers see it. It keeps nothing: the ring is in `log/changes.rs`.

use futures::stream::{self, Stream, StreamExt as _};

use crate::log::changes::Listener;
use crate::record::Change;

/// A reader of [`Store::changes`](crate::Store::changes) was too slow: the oldest changes that it had
/// not taken are gone. What comes next follows them, in order.
///
/// Read everything anew now, with [`Store::list`](crate::Store::list): what was missed is in that
/// listing, because a commit is told of when it is durable, and a listing holds all that was durable
/// when it was asked for. Then go on with the feed: it may repeat what the listing has, which `uid`
/// and `revision` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lagged {
    /// How many changes were missed.
    pub missed: u64,
}

impl std::fmt::Display for Lagged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} changes were missed; list the instances again, then go on", self.missed)
    }
}

impl std::error::Error for Lagged {}

pub(crate) fn stream(listener: Listener) -> impl Stream<Item = Result<Change, Lagged>> + Send + Unpin {
    stream::unfold(listener, |mut listener| async move {
        let item = listener.next().await?;
        let item = item.map(|change| Change::clone(&change)).map_err(|missed| Lagged { missed });
        Some((item, listener))
    })
    .boxed()
}

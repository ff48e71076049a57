//! Disk work, off the runtime's own threads. It is never cut short: what has begun goes on when nobody
//! waits for it any more.

use crate::error::{Error, Result};

/// Runs `work` on a thread that may block. When the future is dropped the work goes on to its end.
///
/// # Panics
///
/// When `work` panics, with its panic.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    // What it tells belongs to whoever asked for it.
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and the work was never begun.
            Err(_) => Err(Error::Closed),
        },
    }
}

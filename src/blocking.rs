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

/// Does much work, most of which is waiting for the disk, on up to `threads` threads, each of which
/// gets at least `least` of it; this one is among them. The results come in order. Blocks.
///
/// # Errors
///
/// The first in that order. What other threads have begun goes on to their own first error.
pub(crate) fn at_once<T: Sync, R: Send>(
    all: &[T],
    threads: usize,
    least: usize,
    one: &(impl Fn(&T) -> Result<R> + Sync),
) -> Result<Vec<R>> {
    let do_all = |part: &[T]| part.iter().map(one).collect::<Result<Vec<R>>>();
    let share = all.len().div_ceil(threads).max(least);
    std::thread::scope(|scope| {
        let (own, rest) = all.split_at(share.min(all.len()));
        let spawn =
            |part| std::thread::Builder::new().name("fiefdom-disk".into()).spawn_scoped(scope, move || do_all(part));
        let others: Vec<_> = rest.chunks(share).map(|part| (part, spawn(part))).collect();
        let mut done = do_all(own)?;
        for (part, other) in others {
            done.extend(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
                // No thread could be made.
                Err(_) => do_all(part)?,
            });
        }
        Ok(done)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn much_work_is_done_once_in_order_on_several_threads() {
        let all: Vec<usize> = (0..1000).collect();
        let seen = Mutex::new(HashSet::new());
        let double = |number: &usize| {
            seen.lock().expect("no panic").insert(std::thread::current().id());
            Ok(number * 2)
        };
        let done = at_once(&all, 4, 100, &double).expect("no error");
        assert!(done.into_iter().eq((0..1000).map(|number| number * 2)));
        assert_eq!(seen.lock().expect("no panic").len(), 4);
        assert_eq!(at_once(&all[..100], 4, 100, &double).expect("no error").len(), 100);
        assert!(at_once(&[], 4, 100, &double).expect("no error").is_empty());
        let fails = |number: &usize| if *number > 300 { Err(Error::Closed) } else { Ok(()) };
        assert!(matches!(at_once(&all, 4, 100, &fails), Err(Error::Closed)));
    }
}

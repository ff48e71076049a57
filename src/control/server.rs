//! The owner's side: a socket that takes one request per connection.
//!
//! Few connections at once, little time for each, and no memory before bytes come: whoever floods it
//! waits in the kernel's queue, and holds up nobody but those who wait there too.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::stream;
use super::wire::{self, Answer, WireError};
use crate::engine::Engine;
use crate::error::Error;

/// Most connections at once.
const CONNECTIONS: usize = 16;

/// How long whoever connects may take to send its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long requests under way may take when the store is shut down.
const LAST: Duration = Duration::from_secs(2);

/// How long the server leaves a listener alone that takes no connections (no descriptors are left).
const PAUSE: Duration = Duration::from_millis(100);

/// Hears what other processes ask for, until it is dropped.
pub(crate) struct Server {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Serves a socket; `None`, and a warning, when it cannot be: everything else works without.
    pub(crate) fn start(socket: io::Result<StdListener>, engine: &Weak<Engine>, record_bytes: usize) -> Option<Self> {
        // A runtime without I/O says so by a panic.
        let listener = socket.and_then(|socket| {
            catch_unwind(AssertUnwindSafe(|| UnixListener::from_std(socket)))
                .unwrap_or_else(|_| Err(io::Error::other("the runtime has no I/O enabled")))
        });
        let listener = listener
            .inspect_err(|error| {
                tracing::warn!(%error, "other processes cannot cancel, pause or update what this one runs");
            })
            .ok()?;
        let stop = CancellationToken::new();
        let limit = record_bytes.saturating_add(wire::ENVELOPE_BYTES);
        let task = tokio::spawn(serve(listener, Weak::clone(engine), limit, stop.clone()));
        Some(Self { stop, task: Mutex::new(Some(task)) })
    }

    /// Takes no more requests, and waits a moment for those under way.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(LAST, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

async fn serve(listener: UnixListener, engine: Weak<Engine>, limit: usize, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => match place {
                Ok(place) => tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    accepted = listener.accept() => accepted.map(|(stream, _)| (stream, place)),
                },
                Err(_) => break,
            },
        };
        match accepted {
            Ok((stream, place)) => {
                let (engine, stop) = (Weak::clone(&engine), stop.clone());
                connections.spawn(async move {
                    // Whoever goes away in the middle is told nothing.
                    let _ = connection(stream, &engine, limit, &stop).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: UnixStream,
    engine: &Weak<Engine>,
    limit: usize,
    stop: &CancellationToken,
) -> io::Result<()> {
    // The directory of the socket lets in nobody else; this holds should its mode be changed.
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let line = tokio::select! {
        line = tokio::time::timeout(PATIENCE, stream::read_line(&stream, limit)) => line.map_err(io::Error::from)?,
        () = stop.cancelled() => return Ok(()),
    };
    let answer = match line {
        Ok(line) => answer(&line, engine).await,
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Answer::Refused(WireError::TooLarge {
            what: "control request".into(),
            bytes: limit as u64 + 1,
            limit: limit as u64,
        }),
        Err(e) => return Err(e),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, stream::write_all(&stream, &line)).await?
}

async fn answer(line: &[u8], engine: &Weak<Engine>) -> Answer {
    let (id, operation) = match wire::parse(line) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let Some(engine) = engine.upgrade() else { return Answer::Elsewhere };
    match engine.control(&id, operation).await {
        Ok(Some(done)) => Answer::Done(done),
        Ok(None) | Err(Error::Closed) => Answer::Elsewhere,
        Err(error) => Answer::Refused(error.into()),
    }
}

//! The asker's side: finds who has the instance in use, and asks. It changes nothing itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use super::operation::Operation;
use super::stream;
use super::wire::{self, Answer, Request, WireDone};
use crate::blocking;
use crate::disk::lock;
use crate::disk::root::Root;
use crate::disk::socket::{self, Address};
use crate::error::{self, Error, Owner, Result};
use crate::record::InstanceId;

/// How long an owner may take to answer. Its disk may be slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long is waited when others crowd the socket.
const CROWDED: Duration = Duration::from_millis(20);

/// Most writers that are asked.
const WRITERS: usize = 64;

/// Largest answer: the owner may have a larger limit for records than we have.
const ANSWER_BYTES: usize = 64 << 20;

/// What came of asking.
pub(super) enum Asked {
    /// It is done, by this process if that is known.
    Done(WireDone, Option<Owner>),
    /// Nobody who was asked has the instance.
    Nobody,
    /// The owner died, or hung up, after it had the request.
    Lost,
    /// The owner speaks another version.
    Unsupported,
}

/// Asks everybody who has the root open, the one that seems to be the owner first.
///
/// # Errors
///
/// What the owner answered, and [`Error::Remote`] when it does not answer.
pub(super) async fn ask(
    root: &Arc<Root>,
    own: String,
    owner: Option<&Owner>,
    id: &InstanceId,
    operation: &Operation,
) -> Result<Asked> {
    let request = Request { version: wire::VERSION, id, operation };
    let mut line = serde_json::to_vec(&request).map_err(|e| crate::record::json::unserializable("request", &e))?;
    line.push(b'\n');
    let (root, owner) = (Arc::clone(root), owner.cloned());
    let writers = {
        let root = Arc::clone(&root);
        blocking::run(move || Ok(socket::candidates(&root, &own, owner.as_ref(), WRITERS))).await?
    };
    for writer in writers {
        let address = {
            let (root, writer) = (Arc::clone(&root), writer.clone());
            blocking::run(move || socket::find(&root, &writer)).await?
        };
        let Some(address) = address else { continue };
        let stream = match tokio::time::timeout(PATIENCE, connect(&address)).await {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(_) => return Err(silent(&root, id)),
        };
        match tokio::time::timeout(PATIENCE, exchange(&stream, &line)).await {
            Err(_) => return Err(silent(&root, id)),
            Ok(Err(Broken::After)) => return Ok(Asked::Lost),
            Ok(Ok(Answer::Done(done))) => {
                let owner = blocking::run(move || lock::owner_named(&root, &writer)).await;
                // It is done, whatever can be read.
                return Ok(Asked::Done(done, owner.ok().flatten()));
            }
            Ok(Ok(Answer::Refused(error))) => return Err(error.into_error(id)),
            Ok(Err(Broken::Before) | Ok(Answer::Elsewhere)) => {}
            Ok(Ok(Answer::Unsupported { .. })) => return Ok(Asked::Unsupported),
        }
    }
    Ok(Asked::Nobody)
}

fn silent(root: &Root, id: &InstanceId) -> Error {
    let show = error::command(root.top.path(), &format!("show {id}"));
    let reason = format!(
        "it has not answered within {PATIENCE:?}; it may yet do it: look with `{show}`, and try again, or stop that process"
    );
    Error::Remote { id: id.clone(), reason }
}

/// A connection; `None` when nobody listens there. While too many wait to be heard it tries again.
async fn connect(address: &Address) -> Option<UnixStream> {
    loop {
        match UnixStream::connect(&address.path).await {
            Ok(stream) => return Some(stream),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(CROWDED).await,
            // Gone, or about to go, or never there: the lock says what to do next.
            Err(_) => return None,
        }
    }
}

/// Where a connection broke.
enum Broken {
    /// The owner cannot have had the request.
    Before,
    /// It may have.
    After,
}

async fn exchange(stream: &UnixStream, line: &[u8]) -> Result<Answer, Broken> {
    let same_user = stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
    if !same_user {
        return Err(Broken::Before);
    }
    // An owner that refuses a request early answers before it has read all of it.
    let sent = stream::write_all(stream, line).await;
    match stream::read_line(stream, ANSWER_BYTES).await {
        Ok(answer) => serde_json::from_slice(&answer).map_err(|_| Broken::After),
        // Without the newline at its end a request is none.
        Err(_) if sent.is_err() => Err(Broken::Before),
        Err(_) => Err(Broken::After),
    }
}

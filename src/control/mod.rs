//! Cancelling, pausing and changing an instance by its id, also when another process has it in use:
//! [`Store::control`].
//!
//! The owner of an instance stays its only writer: nothing is ever changed past its actor.
//!
//! ```text
//! Store::control ──(not in use)──> opens it, does it
//!       └──(in use by another)──> control.sock of that writer ──> its actor ──> durable ──> answer
//! ```

mod client;
mod operation;
mod server;
mod stream;
mod wire;

use std::time::Duration;

use client::Asked;
use tokio::sync::watch;

pub use operation::{Change, Done, Operation};
pub(crate) use operation::{lost_key, merge_patch};
pub(crate) use server::Server;
pub(crate) use wire::WireDone;

use crate::actors::instance::Attendance;
use crate::error::{Error, Owner, Result};
use crate::instance::InstanceRef;
use crate::kind::Instance;
use crate::record::{InstanceId, RawRecord, Status};
use crate::store::Store;

/// How often it is tried to find out who has the instance.
const TRIES: u32 = 20;

/// How long is waited between two tries: an owner comes, or goes.
const PAUSE: Duration = Duration::from_millis(50);

impl<I: Instance> Store<I> {
    /// Does `operation` to an instance, whichever process has it in use: this store when nobody has,
    /// else the owner is asked to, over a socket in its directory that only the same user can open.
    /// It returns when the change is durable, and reports what the owner reports.
    ///
    /// An owner that dies in between is no obstacle: then this store takes over. An owner that comes and
    /// goes is tried again for about a second.
    ///
    /// ```
    /// use fiefdom::control::Operation;
    /// use fiefdom::{NewInstance, Status, Store, Untyped};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let done = store.control(&"build-42".parse()?, Operation::Pause).await?;
    /// assert_eq!(done.record.status, Status::Paused);
    /// println!("by {:?}", done.owner); // none: it was this store
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`InstanceRef`] and [`InstanceRef::commit`], the owner's included;
    /// [`Error::Transition`] when the lifecycle has no such step; [`Error::InvalidInput`] when a merge
    /// patch does not fit the type of the state. [`Error::Locked`] when the owner cannot be asked: it is
    /// of another version, or was not to be found. [`Error::Remote`] when it does not answer within
    /// 30 s. [`Error::Unknown`] when it died after it was asked to append an event or to answer a
    /// question. Unless it is one of the last two, nothing was changed.
    ///
    /// When the future is dropped the operation may be done or not, as a whole.
    pub async fn control(&self, id: &InstanceId, operation: Operation) -> Result<Done> {
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let owner = match self.control_here(id, operation.clone()).await {
                Err(Error::Locked { owner, .. }) => owner,
                Err(error) => return Err(error),
                Ok(done) => return finished(id, &done, None),
            };
            let ground = &self.engine().ground;
            let own = ground.log.writer_id().to_string();
            match client::ask(&ground.root, own, owner.as_deref(), id, &operation).await? {
                Asked::Done(done, owner) => return finished(id, &done, owner),
                Asked::Lost if !operation.is_repeatable() => {
                    let reason = Error::rejected("the process that had it in use ended before it answered");
                    return Err(Error::Unknown { id: id.clone(), reason: reason.into() });
                }
                Asked::Unsupported => return Err(Error::Locked { id: id.clone(), owner }),
                Asked::Lost | Asked::Nobody => last = owner,
            }
        }
        Err(Error::Locked { id: id.clone(), owner: last })
    }

    async fn control_here(&self, id: &InstanceId, operation: Operation) -> Result<WireDone> {
        let instance = InstanceRef::<I>::new(id.clone(), self.engine().clone(), None);
        let (live, permit) = instance.admitted().await?;
        live.perform(operation, permit).await
    }
}

impl<I: Instance> InstanceRef<I> {
    /// Holds the instance: its status becomes `paused`, with the event `job.paused`, and whoever works
    /// on it follows. The runner stops the processes of a command job and the clock of its timeout,
    /// and does not begin a job that is paused. Does nothing when it is paused already.
    ///
    /// A pause outlives the process: an instance that was paused when its owner died is `paused` still.
    /// When the future is dropped: see [`InstanceRef`].
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.pause().await?;
    /// assert_eq!(build.record().await?.status, Status::Paused);
    /// build.unpause().await?;
    /// assert_eq!(build.record().await?.status, Status::Pending); // nobody works on it
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Transition`] when it is `starting`, interrupted or at its end, and those of
    /// [`InstanceRef::commit`].
    pub async fn pause(&self) -> Result<()> {
        let (live, permit) = self.admitted().await?;
        live.perform(Operation::Pause, permit).await.map(drop)
    }

    /// Lets the instance go on after a pause, with the event `job.unpaused`. Its status becomes
    /// `running` when somebody works on it (the runner does, or whoever waits for
    /// [`InstanceRef::cancelled`]); else `pending` when it was never begun, and `interrupted` when it
    /// was. Does nothing when it is not paused. The example is at [`InstanceRef::pause`].
    ///
    /// # Errors
    ///
    /// [`Error::Transition`] when it is at its end, and those of [`InstanceRef::commit`].
    pub async fn unpause(&self) -> Result<()> {
        let (live, permit) = self.admitted().await?;
        live.perform(Operation::Unpause, permit).await.map(drop)
    }

    /// Says that whoever calls this works on the instance, acts on a request to stop it, and follows
    /// its durable status, until what is returned first is dropped.
    pub(crate) async fn attend(&self) -> Result<(Attendance<I::State>, watch::Receiver<Status>)> {
        let (live, _permit) = self.admitted().await?;
        Ok((live.core.attend(), live.core.status()))
    }
}

fn finished(id: &InstanceId, done: &WireDone, owner: Option<Owner>) -> Result<Done> {
    let record = RawRecord::parse(done.record.get().as_bytes()).and_then(RawRecord::typed);
    let record = record.map_err(|e| {
        let reason =
            format!("its answer cannot be read ({e}); read the instance to see whether it was done all the same");
        Error::Remote { id: id.clone(), reason }
    })?;
    Ok(Done { asked: done.asked, event_seq: done.event_seq, record, owner })
}

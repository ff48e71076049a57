//! Checkpoints: where the work on an instance stands.
//!
//! The event is the truth, and one commit carries it with its number in the record
//! (`checkpoint_seq`). `logs/checkpoint.json` follows, before the caller gets its reply. It counts
//! only when it has that number: a process that died in between left an older file, which is
//! written anew from the event at the next look. So the last checkpoint is found without reading
//! the log, and the file is never ahead of what is durable.

use std::sync::PoisonError;

use crate::blocking;
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::Result;
use crate::following::{event, read_json, write};
use crate::instance::InstanceRef;
use crate::kind::Instance;
use crate::options::Durability;
use crate::record::work::CheckpointEvent;
use crate::record::{Checkpoint, LastCheckpoint};

/// The type of the event.
const EVENT: &str = "checkpoint";

/// Largest file that is read, in bytes: twice what the default limit of an event lets through, for
/// its indentation. A larger one is taken from the event.
const FILE_BYTES: u64 = 1 << 20;

impl<I: Instance> InstanceRef<I> {
    /// Notes where the work stands: an event `checkpoint`, and the file `logs/checkpoint.json` with
    /// the last one. Returns the `seq` of the event.
    ///
    /// It is on disk when this returns, whatever the level of the store. The file follows before
    /// that too; should it not be possible to write it, that is logged, and the next
    /// [`InstanceRef::last_checkpoint`] writes it.
    ///
    /// ```
    /// # use fiefdom::{Checkpoint, NewInstance, Store, Untyped};
    /// # use serde_json::json;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let instance = store.create(NewInstance::new()).await?;
    /// instance.checkpoint(Checkpoint::new("fetched").message("40 of 90").data(json!({ "next": 41 }))).await?;
    /// let last = instance.last_checkpoint().await?.expect("one was written");
    /// assert_eq!(last.checkpoint.data["next"], 41);
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`](crate::Error::InvalidInput) and
    /// [`Error::TooLarge`](crate::Error::TooLarge) for what is beyond the limits of [`Checkpoint`], and
    /// those of [`InstanceRef::update`]: the last checkpoint is the one before.
    ///
    /// When the future is dropped the checkpoint may be written or not, as a whole.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<u64> {
        checkpoint.check()?;
        let written = self.commit(move |tx| {
            // The file is on disk: the log must not be behind it.
            tx.set_durability(Durability::Disk);
            let event = CheckpointEvent { attempt: tx.record().attempt, checkpoint };
            let seq = tx.event(EVENT, &event)?;
            tx.work_mut().checkpoint_seq = Some(seq);
            Ok(LastCheckpoint { seq, at: tx.at(), attempt: event.attempt, checkpoint: event.checkpoint })
        });
        let last = written.await?.value;
        let seq = last.seq;
        if let Err(error) = self.follow_checkpoint(Some(last)).await {
            tracing::warn!(id = %self.id(), %error, "a checkpoint is durable, and its file is not written yet");
        }
        Ok(seq)
    }

    /// The last checkpoint that was written, by whichever attempt and process; none when there was
    /// none. Its file is written anew if it is missing or behind, also when the future is dropped.
    ///
    /// ```
    /// use fiefdom::Checkpoint;
    /// use serde_json::json;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// assert!(build.last_checkpoint().await?.is_none()); // it has just begun
    /// build.checkpoint(Checkpoint::new("fetched").data(json!({ "next": 41 }))).await?;
    ///
    /// let last = build.last_checkpoint().await?.expect("one was written");
    /// assert_eq!((last.checkpoint.step.as_str(), last.seq), ("fetched", 1));
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) and [`Error::Io`](crate::Error::Io) when neither the
    /// file nor the event log can be read, and those of [`InstanceRef`].
    pub async fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>> {
        if self.record().await?.work.checkpoint_seq.is_none() {
            return Ok(None);
        }
        self.follow_checkpoint(None).await
    }

    /// Brings the file up to the record, and returns what is in it. `known` is what the file shall
    /// hold, unless another checkpoint came meanwhile.
    async fn follow_checkpoint(&self, known: Option<LastCheckpoint>) -> Result<Option<LastCheckpoint>> {
        let (live, permit) = self.admitted().await?;
        let core = std::sync::Arc::clone(&live.core);
        blocking::run(move || {
            // One at a time, and each looks at the record: the file never goes back.
            let _following = core.following.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(seq) = core.published().work.checkpoint_seq else { return Ok(None) };
            let dir: &Dir = &core.lane.dir;
            if let Some(last) = in_file(dir).filter(|last| last.seq == seq) {
                return Ok(Some(last));
            }
            let last = if let Some(known) = known.filter(|known| known.seq == seq) {
                known
            } else {
                // The event may be in the log alone.
                core.lane.materialise()?;
                in_log(dir, seq)?
            };
            if let Err(error) = write(dir, &[layout::LOGS], layout::CHECKPOINT, &last) {
                tracing::warn!(id = %core.lane.id, %error, "the file of a checkpoint could not be written; its event is durable");
            }
            drop(permit);
            Ok(Some(last))
        })
        .await
    }
}

/// The last checkpoint, without a lock and without writing anything.
pub(crate) fn read(instance: &Dir, seq: Option<u64>) -> Result<Option<LastCheckpoint>> {
    let Some(seq) = seq else { return Ok(None) };
    match in_file(instance).filter(|last| last.seq == seq) {
        Some(last) => Ok(Some(last)),
        None => in_log(instance, seq).map(Some),
    }
}

fn in_file(instance: &Dir) -> Option<LastCheckpoint> {
    read_json(instance, &[layout::LOGS], layout::CHECKPOINT, FILE_BYTES)
}

fn in_log(instance: &Dir, seq: u64) -> Result<LastCheckpoint> {
    let event = event(instance, seq)?;
    let CheckpointEvent { attempt, checkpoint } = event.data_as()?;
    Ok(LastCheckpoint { seq, at: event.at, attempt, checkpoint })
}

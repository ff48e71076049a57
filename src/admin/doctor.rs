//! `Doctor`: what is wrong in a root, and the repair of what can be repaired without a guess. What
//! would take one is never done: the finding says what a person can do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::examine::{self, Unit};
use crate::disk::fs::{Dir, Lock};
use crate::disk::root::Root;
use crate::disk::{layout, lock, quarantine};
use crate::error::{Error, Result};
use crate::log::events::{EventWriter, Position};
use crate::log::{recover, segment, trash};
use crate::record::InstanceId;
use crate::root::DataRoot;

/// Examines a root, and repairs what was found. Its functions block: call them from a thread that
/// may, or from a tool.
///
/// ```
/// use fiefdom::{Doctor, NewInstance, Store, Untyped};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> fiefdom::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path(), Untyped).await?;
/// store.create(NewInstance::new()).await?;
/// store.shutdown().await?;
///
/// let report = Doctor::examine(dir.path())?;
/// for finding in &report.findings {
///     println!("{}: {}; {}", finding.path.display(), finding.reason, finding.repair);
/// }
/// assert_eq!((report.instances, report.damage()), (1, 0));
/// let repairs = Doctor::repair(&report)?;
/// assert!(repairs.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Doctor;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// Something is lost, cannot be read, or contradicts something else.
    Damage,
    /// Worth knowing; nothing is lost by it.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Whose it is; none for what belongs to the root.
    pub instance: Option<InstanceId>,
    /// Where it is.
    pub path: PathBuf,
    /// Where in the file, in bytes, when that is known.
    pub offset: Option<u64>,
    /// What it is, in a sentence.
    pub reason: String,
    /// What a repair does about it, in a sentence; or, when it does nothing, what a person can do.
    pub repair: String,
    /// Whether a repair does anything about it.
    pub repairable: bool,
    #[serde(skip)]
    pub(super) fix: Fix,
}

/// What a repair does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    Nothing,
    /// Recover dead writers, and remove what is left of half-made ones.
    Recover,
    RemoveTrash(String),
    /// A temporary of an instance: below `events/`, below `workspace/`, or in the directory itself.
    RemoveTemporary(Option<&'static str>, String),
    /// Cut the active event file to this length.
    CutEvents(Position),
    RewriteState(Position),
}

/// What an examination found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The root.
    pub root: PathBuf,
    /// Instances that were looked at.
    pub instances: usize,
    /// How many of these had a living owner.
    pub live: usize,
    /// Files of the library that were looked at; those of the work are not.
    pub files: usize,
    /// What was found, the damage first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are damage.
    ///
    /// ```
    /// use fiefdom::{Doctor, Severity};
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.shutdown().await?;
    /// let report = Doctor::examine(dir.path())?;
    /// for finding in &report.findings {
    ///     println!("{}: {}", finding.path.display(), finding.reason);
    /// }
    /// assert_eq!(report.damage(), 0);
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # store.shutdown().await }
    /// ```
    #[must_use]
    pub fn damage(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Damage).count()
    }
}

/// What became of the repair of one finding.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Repair {
    /// The finding.
    pub finding: Finding,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the repair of one finding came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It was done, and is on disk.
    Done,
    /// Nothing was done, for this reason.
    Skipped(String),
    /// It failed; what is there is no worse than before.
    Failed(Error),
}

fn open(root: &DataRoot) -> Result<Arc<Root>> {
    Root::open_existing(root.path())?.map(Arc::new).ok_or_else(|| Error::Root {
        path: root.path().to_owned(),
        reason: "there is no complete store in it; name the directory that holds one".into(),
    })
}

impl Doctor {
    /// Looks at every file that the library writes. It takes no lock, changes nothing and wakes
    /// nobody. What a living process is about to write is not a finding: whatever is found is looked
    /// at three times, and counts when it stays the same.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] when there is no store; [`Error::NewerFormat`], [`Error::Corrupt`] or
    /// [`Error::Io`] when the root itself cannot be read. What cannot be read in it is a finding.
    pub fn examine(root: impl Into<DataRoot>) -> Result<Report> {
        Self::examine_watched(root, |_, _| {})
    }

    /// Like [`Doctor::examine`]; `watch` is told after each part how many are done, and of how many.
    ///
    /// ```
    /// use fiefdom::Doctor;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.shutdown().await?;
    /// let report = Doctor::examine_watched(dir.path(), |done, of| eprintln!("{done} of {of}"))?;
    /// assert_eq!((report.instances, report.live), (1, 0));
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Doctor::examine`].
    pub fn examine_watched(root: impl Into<DataRoot>, watch: impl FnMut(usize, usize)) -> Result<Report> {
        let root = open(&root.into())?;
        examine::all(&root, watch)
    }

    /// Does what the findings of the report say, in their order, dead writers first, and nothing else.
    /// Each is looked at again under its locks: one that is not true any more is skipped, and so is an
    /// instance that a living process owns. Bytes that are taken away are in the quarantine first.
    ///
    /// To recover dead writers is what every opening of a store does; one that died since the report
    /// was made is recovered with the others.
    ///
    /// # Errors
    ///
    /// Those of [`Doctor::examine`]. A repair that fails is an [`Outcome::Failed`], and the others go on.
    pub fn repair(report: &Report) -> Result<Vec<Repair>> {
        let root = open(&DataRoot::at(&report.root))?;
        let mut wanted: Vec<&Finding> = report.findings.iter().filter(|finding| finding.repairable).collect();
        wanted.sort_by_key(|finding| finding.fix != Fix::Recover);
        // All that is to be recovered is recovered at once; what was there before says of which
        // findings that is true.
        let waiting: BTreeSet<PathBuf> = if wanted.iter().any(|finding| finding.fix == Fix::Recover) {
            examine::recoverable(&root)?
        } else {
            BTreeSet::new()
        };
        let recovered = if waiting.is_empty() { Ok(()) } else { recover::recover(&root, None).map(drop) };
        let done = wanted.into_iter().map(|finding| {
            let outcome = match (&finding.fix, &recovered) {
                (Fix::Recover, _) if !waiting.contains(&finding.path) => Ok(not_any_more()),
                (Fix::Recover, Ok(())) => Ok(Outcome::Done),
                (Fix::Recover, Err(error)) => Ok(Outcome::Failed(error.clone())),
                (Fix::RemoveTrash(name), _) => remove_trash(&root, name),
                _ => mend_instance(&root, finding),
            };
            Repair { finding: finding.clone(), outcome: outcome.unwrap_or_else(Outcome::Failed) }
        });
        Ok(done.collect())
    }
}

fn not_any_more() -> Outcome {
    Outcome::Skipped("it is not so any more".into())
}

fn remove_trash(root: &Root, name: &str) -> Result<Outcome> {
    if root.trash.open_dir(name)?.is_none() {
        return Ok(not_any_more());
    }
    // Whoever deleted it may be removing it too: both then come to the same end.
    trash::clear(root, None, name)?;
    root.trash.sync()?;
    if root.trash.open_dir(name)?.is_some() {
        return Ok(Outcome::Skipped("its name is kept while the log of another process may hold commits of it".into()));
    }
    Ok(Outcome::Done)
}

fn mend_instance(root: &Arc<Root>, finding: &Finding) -> Result<Outcome> {
    let Some(id) = &finding.instance else { return Ok(not_any_more()) };
    let _order = root.recovery_lock()?.lock(Lock::Shared)?;
    let dir = match lock::lock_instance(root, id) {
        Ok(dir) => dir,
        Err(Error::NotFound { .. }) => return Ok(not_any_more()),
        Err(error @ Error::Locked { .. }) => return Ok(Outcome::Skipped(error.to_string())),
        Err(error) => return Err(error),
    };
    if lock::any_dead_writer(root, Uuid::nil())? {
        return Ok(Outcome::Skipped("a dead writer waits for recovery, which comes first".into()));
    }
    let now = examine::under_lock(root, &Unit::Instance(id.to_string()));
    if !now.contains(finding) {
        return Ok(not_any_more());
    }
    match &finding.fix {
        Fix::RemoveTemporary(below, name) => remove_temporary(root, id, &dir, *below, name, finding)?,
        Fix::CutEvents(position) => cut_events(root, id, &dir, *position, finding)?,
        Fix::RewriteState(position) => rewrite_state(root, id, &dir, *position, finding)?,
        Fix::Nothing | Fix::Recover | Fix::RemoveTrash(_) => return Ok(not_any_more()),
    }
    Ok(Outcome::Done)
}

/// Its bytes are kept all the same: they can be the last readable ones.
fn remove_temporary(
    root: &Root,
    id: &InstanceId,
    instance: &Dir,
    below: Option<&str>,
    name: &str,
    finding: &Finding,
) -> Result<()> {
    let opened = below.map(|below| instance.open_dir(below)).transpose()?.flatten();
    let dir = opened.as_ref().unwrap_or(instance);
    keep_file(root, id, dir, name, finding)?;
    dir.remove_file(name)?;
    dir.sync()
}

fn keep_file(root: &Root, id: &InstanceId, dir: &Dir, name: &str, finding: &Finding) -> Result<()> {
    let Some(file) = dir.open_file(name)? else { return Ok(()) };
    let bytes = file.read_all(u64::MAX - 1)?;
    quarantine::keep(root, id.as_str(), dir, name, &bytes, finding.offset, &finding.reason)
}

fn cut_events(root: &Root, id: &InstanceId, instance: &Dir, position: Position, finding: &Finding) -> Result<()> {
    let dir = instance.ensure_dir(layout::EVENTS)?;
    let file = dir.open_or_create_file(layout::EVENT_LOG)?;
    let tail = segment::read_tail(&file, position.offset)?;
    quarantine::keep(root, id.as_str(), &dir, layout::EVENT_LOG, &tail, finding.offset, &finding.reason)?;
    file.set_len(position.offset)?;
    file.sync_all()?;
    rewrite_state(root, id, instance, position, finding)
}

/// Makes the events durable, and the cache with them.
fn rewrite_state(root: &Root, id: &InstanceId, instance: &Dir, position: Position, finding: &Finding) -> Result<()> {
    if let Some(dir) = instance.open_dir(layout::EVENTS)? {
        keep_file(root, id, &dir, layout::EVENT_STATE, finding)?;
    }
    EventWriter::at(position, u64::MAX).sync(instance)
}

impl Finding {
    pub(super) fn new(severity: Severity, path: &Path, reason: impl Into<String>, repair: impl Into<String>) -> Self {
        Self {
            severity,
            instance: None,
            path: path.to_owned(),
            offset: None,
            reason: reason.into(),
            repair: repair.into(),
            repairable: false,
            fix: Fix::Nothing,
        }
    }

    /// What an error says, where it says it.
    pub(super) fn of_error(path: &Path, error: &Error, repair: &str) -> Self {
        match error {
            Error::Corrupt { path, offset, reason } => {
                Self::new(Severity::Damage, path, reason.clone(), repair).at(*offset)
            }
            other => Self::new(Severity::Damage, path, other.to_string(), repair),
        }
    }

    pub(super) fn at(mut self, offset: Option<u64>) -> Self {
        self.offset = offset;
        self
    }

    pub(super) fn mended_by(mut self, fix: Fix) -> Self {
        self.repairable = true;
        self.fix = fix;
        self
    }
}

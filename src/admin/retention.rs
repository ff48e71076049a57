//! Which instances may go: the rules, and what they say of a root.
//!
//! Nothing is deleted here. What is due is decided twice: by a look without locks, and again by
//! [`Retention::judge`] on the record that is read under the instance's lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::disk::lock;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::log::activate;
use crate::options::Options;
use crate::record::{BATCH_KIND, BATCH_TAG, InstanceId, RawRecord, Record, Status};

/// Which instances are deleted when they have been over for long enough.
///
/// An instance is judged by the first rule that is for its status, kind and tags; one that no rule
/// is for stays. Whatever the rules say, an instance stays that is not in a final status, is pinned,
/// is live in any process (so it has been idle for [`Options::idle_after`](crate::Options::idle_after)
/// at least), or is a job of a batch that is there and has not succeeded.
///
/// It does nothing by itself: give it to [`Store::gc`](crate::Store::gc).
///
/// ```
/// use std::time::Duration;
/// use fiefdom::{Retention, RetentionRule, Status};
///
/// const DAY: Duration = Duration::from_secs(86_400);
/// let policy = Retention::new()
///     .rule(RetentionRule::new().status(Status::Failed).older_than(30 * DAY))
///     .rule(RetentionRule::new().older_than(7 * DAY).keep(100));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Retention {
    rules: Vec<RetentionRule>,
}

/// One rule of a [`Retention`]. A new one is for every instance that is over, and deletes it at once.
///
/// ```
/// use std::time::Duration;
/// use fiefdom::{Retention, RetentionRule, Status};
///
/// const DAY: Duration = Duration::from_secs(86_400);
/// // Builds of branches go after a week when they went well, but the last ten stay.
/// let rule = RetentionRule::new().kind("build").tag("from", "branch").status(Status::Succeeded);
/// let policy = Retention::new().rule(rule.older_than(7 * DAY).keep(10));
/// ```
#[derive(Clone, Debug, Default)]
pub struct RetentionRule {
    statuses: Vec<Status>,
    kind: Option<String>,
    tags: BTreeMap<String, String>,
    older_than: Duration,
    keep: usize,
}

/// What [`Store::gc`](crate::Store::gc) deleted, or a dry run would have.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct GcReport {
    /// Whether nothing was deleted, because nobody asked for it.
    pub dry_run: bool,
    /// Instances that were looked at.
    pub looked_at: usize,
    /// What is deleted (would be, in a dry run).
    pub deleted: Vec<Deleted>,
    /// What the rules would delete, and something else forbids; and what could not be judged.
    pub refused: Vec<Refused>,
    /// Instances that were old enough, and are among the newest that a rule keeps.
    pub kept: usize,
    /// Bytes that were allocated on the disk for what is deleted. A file with several names counts
    /// for each of them.
    pub bytes_freed: u64,
}

/// An instance that was deleted.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Deleted {
    /// The instance.
    pub instance_id: InstanceId,
    /// Its kind.
    pub kind: String,
    /// Its status.
    pub status: Status,
    /// When it reached that (UTC).
    pub ended_at: DateTime<Utc>,
    /// Bytes that were allocated for it.
    pub bytes: u64,
}

/// An instance that was not deleted, and why.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Refused {
    /// The instance.
    pub instance_id: InstanceId,
    /// Why.
    pub reason: RefusedReason,
}

/// Why an instance was not deleted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RefusedReason {
    /// It is pinned.
    Pinned,
    /// It is live, in this process or another.
    Live,
    /// It is a job of this batch, which is there and has not succeeded: resuming it would run the
    /// job again.
    BatchGoesOn(InstanceId),
    /// The record does not say when it ended: it was edited by hand.
    NoEnd,
    /// It was changed between the look and the lock: it is judged anew by the next run.
    Changed,
    /// It cannot be read, or could not be deleted.
    Failed(Error),
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("it is pinned"),
            Self::Live => f.write_str("it is in use"),
            Self::BatchGoesOn(batch) => write!(f, "batch {batch} is not done with it"),
            Self::NoEnd => f.write_str("its record does not say when it ended"),
            Self::Changed => f.write_str("it was changed meanwhile"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl serde::Serialize for RefusedReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Retention {
    /// No rule: nothing is deleted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more rule, behind those that there are.
    #[must_use]
    pub fn rule(mut self, rule: RetentionRule) -> Self {
        self.rules.push(rule);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.rules.iter().flat_map(|rule| &rule.statuses).find(|status| !status.is_final()) {
            None => Ok(()),
            Some(status) => Err(Error::InvalidInput {
                what: "retention rule",
                reason: format!(
                    "an instance that is {status} is not over; name succeeded, failed or cancelled, or no status for all three"
                ),
            }),
        }
    }

    /// The rule for a record, by its number.
    fn rule_of<S>(&self, record: &Record<S>) -> Option<usize> {
        if !record.status.is_final() {
            return None;
        }
        self.rules.iter().position(|rule| {
            (rule.statuses.is_empty() || rule.statuses.contains(&record.status))
                && rule.kind.as_ref().is_none_or(|kind| *kind == record.kind)
                && rule.tags.iter().all(|(key, value)| record.tags.get(key) == Some(value))
        })
    }

    /// The second decision, on the record that was read under the lock: why the instance stays, if
    /// it does.
    pub(crate) fn judge(&self, root: &Root, due: &Due, record: &RawRecord) -> Option<RefusedReason> {
        if record.pinned {
            return Some(RefusedReason::Pinned);
        }
        let same = record.uid == due.uid && record.ended_at == Some(due.ended_at) && self.rule_of(record).is_some();
        if !same || record.status != due.status {
            return Some(RefusedReason::Changed);
        }
        // A batch may have been put back to work meanwhile.
        let batch = due.batch.as_ref().filter(|batch| goes_on(root, batch))?;
        Some(RefusedReason::BatchGoesOn(batch.clone()))
    }
}

impl RetentionRule {
    /// A rule for every instance that is over.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only for instances in this status (may be given again). It must be a final one.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.statuses.push(status);
        self
    }

    /// Only for instances of this kind. Default: of any.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Only for instances with this tag (may be given again).
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// Deletes only what ended longer ago than this, by the time that its record says. Default: 0.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = age;
        self
    }

    /// Keeps the newest `keep` of the instances that this rule is for, however old they are. Pinned
    /// ones stay beside them. Default: 0.
    #[must_use]
    pub fn keep(mut self, keep: usize) -> Self {
        self.keep = keep;
        self
    }
}

/// An instance that the rules would delete.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) id: InstanceId,
    pub(crate) uid: Uuid,
    pub(crate) kind: String,
    pub(crate) status: Status,
    pub(crate) ended_at: DateTime<Utc>,
    pub(crate) batch: Option<InstanceId>,
    rule: usize,
}

impl Due {
    pub(crate) fn is_batch(&self) -> bool {
        self.kind == BATCH_KIND
    }

    pub(crate) fn deleted(self, bytes: u64) -> Deleted {
        Deleted { instance_id: self.id, kind: self.kind, status: self.status, ended_at: self.ended_at, bytes }
    }
}

/// What a look at a root has found.
pub(crate) struct Plan {
    /// What is due, batches first: their jobs may go when they are gone. Oldest first.
    pub(crate) due: Vec<Due>,
    pub(crate) report: GcReport,
}

/// Looks at every record, without a lock. One record at a time is in memory, and a line for each
/// instance that is over. Blocks.
pub(crate) fn plan(root: &Root, policy: &Retention, now: DateTime<Utc>) -> Result<Plan> {
    policy.check()?;
    let mut report = GcReport::default();
    let mut found: Vec<Due> = Vec::new();
    for id in root.instances.names()?.iter().filter_map(|name| InstanceId::new(name).ok()) {
        let record = match read(root, &id) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                report.refused.push(Refused { instance_id: id, reason: RefusedReason::Failed(error) });
                continue;
            }
        };
        report.looked_at += 1;
        let Some(rule) = policy.rule_of(&record) else { continue };
        let refused = match (record.pinned, record.ended_at) {
            (true, _) => RefusedReason::Pinned,
            (false, None) => RefusedReason::NoEnd,
            (false, Some(ended_at)) => {
                let batch = record.tags.get(BATCH_TAG).and_then(|batch| InstanceId::new(batch).ok());
                let (uid, kind, status) = (record.uid, record.kind.into_owned(), record.status);
                found.push(Due { id, uid, kind, status, ended_at, batch, rule });
                continue;
            }
        };
        // What is too young is not refused: nobody wanted it to go.
        if record.ended_at.is_none_or(|ended| is_older(ended, policy.rules[rule].older_than, now)) {
            report.refused.push(Refused { instance_id: id, reason: refused });
        }
    }
    found.sort_unstable_by(|a, b| (b.ended_at, &b.id).cmp(&(a.ended_at, &a.id)));
    let mut seen: HashMap<usize, usize> = HashMap::new();
    found.retain(|due| {
        let rule = &policy.rules[due.rule];
        let newer = seen.entry(due.rule).or_default();
        *newer += 1;
        let old = is_older(due.ended_at, rule.older_than, now);
        report.kept += usize::from(old && *newer <= rule.keep);
        old && *newer > rule.keep
    });
    found.sort_unstable_by(|a, b| (!a.is_batch(), a.ended_at, &a.id).cmp(&(!b.is_batch(), b.ended_at, &b.id)));
    refuse_jobs_of_batches(root, &mut found, &mut report);
    Ok(Plan { due: found, report })
}

/// Jobs stay while their batch goes on, unless it is deleted by this very run.
fn refuse_jobs_of_batches(root: &Root, found: &mut Vec<Due>, report: &mut GcReport) {
    let going: BTreeSet<InstanceId> = found.iter().filter(|due| due.is_batch()).map(|due| due.id.clone()).collect();
    let mut known: BTreeMap<InstanceId, bool> = BTreeMap::new();
    found.retain(|due| {
        let Some(batch) = due.batch.as_ref().filter(|batch| !going.contains(batch)) else { return true };
        let stays = *known.entry(batch.clone()).or_insert_with(|| goes_on(root, batch));
        if stays {
            let reason = RefusedReason::BatchGoesOn(batch.clone());
            report.refused.push(Refused { instance_id: due.id.clone(), reason });
        }
        !stays
    });
}

/// What would be deleted. Locks that are held are seen, and none is taken. Blocks.
pub(crate) fn dry_run(root: &Root, policy: &Retention, now: DateTime<Utc>) -> Result<GcReport> {
    let Plan { due, mut report } = plan(root, policy, now)?;
    report.dry_run = true;
    let locked = lock::locked_inodes();
    for due in due {
        let live = root.instances.stat(due.id.as_str())?.is_some_and(|stat| locked.contains(&stat.identity.inode));
        if live {
            report.refused.push(Refused { instance_id: due.id, reason: RefusedReason::Live });
            continue;
        }
        let bytes = root.instances.allocated(due.id.as_str().as_ref())?;
        report.add(due.deleted(bytes));
    }
    Ok(report)
}

impl GcReport {
    pub(crate) fn add(&mut self, deleted: Deleted) {
        self.bytes_freed = self.bytes_freed.saturating_add(deleted.bytes);
        self.deleted.push(deleted);
    }
}

fn read(root: &Root, id: &InstanceId) -> Result<Option<RawRecord>> {
    let Some(dir) = root.instances.open_dir(id.as_str())? else { return Ok(None) };
    let bytes = activate::read_bytes(&dir, &Options::default())?;
    bytes.map(|bytes| activate::parse(&dir, id, &bytes)).transpose()
}

/// Whether a batch is there and has not succeeded. One that cannot be read may go on.
fn goes_on(root: &Root, batch: &InstanceId) -> bool {
    match read(root, batch) {
        Ok(record) => record.is_some_and(|batch| batch.kind == BATCH_KIND && batch.status != Status::Succeeded),
        Err(_) => true,
    }
}

/// An end in the future (a clock was set back) is not long ago.
fn is_older(ended_at: DateTime<Utc>, age: Duration, now: DateTime<Utc>) -> bool {
    (now - ended_at).to_std().is_ok_and(|since| since >= age)
}

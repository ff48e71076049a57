//! What can be counted from outside: every metric, its name, its labels and its unit.
//!
//! They go to whatever recorder the program has installed for the crate `metrics`; without one each
//! costs an atomic load. Nothing is counted for each commit: the log counts batches. No label has a
//! value that is not written here, so the number of series is fixed; an instance is never one.
//!
//! `docs/operations.md` says what to watch; a test compares it with this file. Never here: a figure
//! that the library itself acts on.

use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, SharedString, Unit, with_recorder};

/// Where they come from, for recorders that choose by it.
static ORIGIN: Metadata<'static> = Metadata::new("fiefdom", Level::INFO, Some("fiefdom"));

/// Something that only rises.
pub(crate) struct Counter(Key);

/// Something that rises and falls. Several stores of one process add up.
pub(crate) struct Gauge(Key);

/// Values with a distribution.
pub(crate) struct Histogram(Key);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        if count > 0 {
            with_recorder(|recorder| recorder.register_counter(&self.0, &ORIGIN).increment(count as u64));
        }
    }
}

impl Gauge {
    fn change(&self, by: f64) {
        with_recorder(|recorder| recorder.register_gauge(&self.0, &ORIGIN).increment(by));
    }
}

impl Histogram {
    fn record(&self, value: f64) {
        with_recorder(|recorder| recorder.register_histogram(&self.0, &ORIGIN).record(value));
    }

    #[expect(clippy::cast_precision_loss, reason = "no limit of a store comes near 2^52")]
    pub(crate) fn count(&self, many: usize) {
        self.record(many as f64);
    }

    pub(crate) fn took(&self, time: Duration) {
        self.record(time.as_secs_f64());
    }
}

/// One store's part of a gauge: what it has added is taken back when it is dropped.
#[derive(Default)]
pub(crate) struct Part {
    of: Option<&'static Gauge>,
    added: usize,
}

impl Part {
    /// The store's part of the gauge is now so much.
    #[expect(clippy::cast_precision_loss, reason = "no limit of a store comes near 2^52")]
    pub(crate) fn set(&mut self, gauge: &'static Gauge, now: usize) {
        if now != self.added {
            gauge.change(now as f64 - self.added as f64);
            (self.of, self.added) = (Some(gauge), now);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(gauge) = self.of {
            self.set(gauge, 0);
        }
    }
}

macro_rules! series {
    ($($kind:ident $name:ident = $metric:literal $({ $key:literal: $value:literal })?;)*) => {
        $(pub(crate) static $name: $kind = {
            static LABELS: &[Label] = &[$(Label::from_static_parts($key, $value))?];
            $kind(Key::from_static_parts($metric, LABELS))
        };)*

        /// Every series.
        #[cfg(test)]
        static SERIES: &[&Key] = &[$(&$name.0),*];
    };
}

series! {
    Counter COMMITS_DISK = "fiefdom_commits_total" { "level": "disk" };
    Counter COMMITS_OS = "fiefdom_commits_total" { "level": "os" };
    Counter COMMITS_NOT_APPLIED = "fiefdom_failed_commits_total" { "outcome": "not_applied" };
    Counter COMMITS_UNKNOWN = "fiefdom_failed_commits_total" { "outcome": "unknown" };
    Histogram COMMIT_WAIT = "fiefdom_commit_wait_seconds";
    Counter SLOW_COMMITS = "fiefdom_slow_commits_total";
    Histogram BATCH_COMMITS = "fiefdom_log_batch_commits";
    Histogram FLUSH = "fiefdom_log_flush_seconds";
    Gauge SEGMENTS_WAITING = "fiefdom_log_segments_waiting";
    Counter CHECKPOINTS = "fiefdom_checkpoints_total";
    Counter CHECKPOINT_FAILURES = "fiefdom_checkpoint_failures_total";
    Gauge FILES_BEHIND = "fiefdom_files_behind";
    Counter MATERIALISE_FAILURES = "fiefdom_materialise_failures_total";
    Counter POISONED = "fiefdom_poisoned_total";
    Gauge LIVE_INSTANCES = "fiefdom_live_instances";
    Counter OPENED = "fiefdom_activations_total" { "how": "opened" };
    Counter CREATED = "fiefdom_activations_total" { "how": "created" };
    Counter PASSIVATED_IDLE = "fiefdom_passivations_total" { "reason": "idle" };
    Counter PASSIVATED_LIMIT = "fiefdom_passivations_total" { "reason": "limit" };
    Counter PASSIVATED_REQUEST = "fiefdom_passivations_total" { "reason": "request" };
    Counter PASSIVATED_SHUTDOWN = "fiefdom_passivations_total" { "reason": "shutdown" };
    Counter CRASHES_ACTOR = "fiefdom_crashes_total" { "what": "actor" };
    Counter CRASHES_CLOSURE = "fiefdom_crashes_total" { "what": "closure" };
    Counter OVERLOADED_INSTANCE = "fiefdom_overloaded_total" { "what": "instance" };
    Counter OVERLOADED_STORE = "fiefdom_overloaded_total" { "what": "store" };
    Counter OVERLOADED_LOG = "fiefdom_overloaded_total" { "what": "log" };
    Counter OVERLOADED_LIVE = "fiefdom_overloaded_total" { "what": "live_instances" };
    Counter RECOVERIES = "fiefdom_recoveries_total";
    Counter RECOVERED_INSTANCES = "fiefdom_recovered_instances_total";
    Counter RECOVERED_COMMITS = "fiefdom_recovered_commits_total";
    Counter INTERRUPTED = "fiefdom_interrupted_total";
    Counter BLOCKED = "fiefdom_blocked_total";
    Counter QUARANTINED = "fiefdom_quarantined_total";
}

/// What people are told about a metric: name, unit, meaning.
const DESCRIPTIONS: [(&str, Unit, &str); 23] = [
    ("fiefdom_commits_total", Unit::Count, "commits that became as durable as they asked to be"),
    ("fiefdom_failed_commits_total", Unit::Count, "commits that the log did not take"),
    ("fiefdom_commit_wait_seconds", Unit::Seconds, "how long the first commit of a batch waited until it was durable"),
    ("fiefdom_slow_commits_total", Unit::Count, "commits in batches that took longer than Options::slow_commit"),
    ("fiefdom_log_batch_commits", Unit::Count, "commits in a batch, which is one flush"),
    ("fiefdom_log_flush_seconds", Unit::Seconds, "time of a flush of the commit log"),
    ("fiefdom_log_segments_waiting", Unit::Count, "full segments of the commit log that wait for their checkpoint"),
    ("fiefdom_checkpoints_total", Unit::Count, "segments that durable files have replaced"),
    ("fiefdom_checkpoint_failures_total", Unit::Count, "checkpoints that failed, and are tried again"),
    ("fiefdom_files_behind", Unit::Count, "instances whose files are behind their commits"),
    ("fiefdom_materialise_failures_total", Unit::Count, "files that could not be written, and are tried again"),
    ("fiefdom_poisoned_total", Unit::Count, "commit logs that failed and take no more writes"),
    ("fiefdom_live_instances", Unit::Count, "instances that have an actor and hold their lock"),
    ("fiefdom_activations_total", Unit::Count, "instances that were brought to life"),
    ("fiefdom_passivations_total", Unit::Count, "instances that were let go"),
    (
        "fiefdom_crashes_total",
        Unit::Count,
        "panics in the closure of a commit, and ends of an actor that nobody asked for",
    ),
    ("fiefdom_overloaded_total", Unit::Count, "operations that were refused at a limit"),
    ("fiefdom_recoveries_total", Unit::Count, "recoveries that found a dead writer"),
    ("fiefdom_recovered_instances_total", Unit::Count, "instances that a recovery looked at"),
    ("fiefdom_recovered_commits_total", Unit::Count, "commits that recoveries found in the logs of dead writers"),
    ("fiefdom_interrupted_total", Unit::Count, "instances that a recovery found at work and made interrupted"),
    ("fiefdom_blocked_total", Unit::Count, "instances that a recovery took out of use"),
    ("fiefdom_quarantined_total", Unit::Count, "damaged files of which a copy went to the quarantine"),
];

/// Tells the recorder, if there is one, what each metric means.
pub(crate) fn describe() {
    with_recorder(|recorder| {
        for (name, unit, meaning) in DESCRIPTIONS {
            let (key, meaning) = (KeyName::from_const_str(name), SharedString::const_str(meaning));
            match name {
                _ if name.ends_with("_total") => recorder.describe_counter(key, Some(unit), meaning),
                _ if is_histogram(name) => recorder.describe_histogram(key, Some(unit), meaning),
                _ => recorder.describe_gauge(key, Some(unit), meaning),
            }
        }
    });
}

fn is_histogram(name: &str) -> bool {
    name.ends_with("_seconds") || name.ends_with("_commits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The rows of the page's tables that are about a metric: `name` or `name{label}`, and the rest.
    fn page() -> Vec<(&'static str, &'static str)> {
        let rows = include_str!("../docs/operations.md").lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split_once('`')).filter(|(name, _)| name.starts_with("fiefdom_")).collect()
    }

    fn labelled(key: &Key) -> String {
        key.labels().next().map_or(key.name().to_owned(), |label| format!("{}{{{}}}", key.name(), label.key()))
    }

    #[test]
    fn the_page_lists_every_metric_with_its_labels_and_no_other() {
        let listed: Vec<String> = page().iter().map(|(name, _)| (*name).to_owned()).collect();
        let series: BTreeSet<String> = SERIES.iter().map(|key| labelled(key)).collect();
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), series);
        assert_eq!(listed.len(), series.len(), "a metric is listed twice");
        for key in SERIES {
            for label in key.labels() {
                let value = format!("`{}`", label.value());
                let told = page().iter().any(|(name, row)| *name == labelled(key) && row.contains(&value));
                assert!(told, "the row of {} says nothing about {value}", key.name());
            }
        }
    }

    #[test]
    fn every_metric_is_described_once() {
        let described: BTreeSet<&str> = DESCRIPTIONS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(described.len(), DESCRIPTIONS.len());
        assert_eq!(described, SERIES.iter().map(|key| key.name()).collect());
    }
}

//! The metrics: a recorder that is installed sees each figure move when what it counts happens.
//! Those of a disk that fails are in src/tests/metrics.rs, on the model disk.
#![allow(missing_docs)]

mod common;
#[path = "common/tally.rs"]
mod tally;

use std::sync::LazyLock;
use std::time::Duration;

use common::{Counter, TestResult, eventually, id, options};
use fiefdom::{Durability, Error, NewInstance, Options, Store};
use futures::future::join_all;
use metrics::Unit;
use tally::Tally;
use tokio::sync::{Mutex, MutexGuard};

/// The recorder of the process.
static TALLY: LazyLock<Tally> = LazyLock::new(|| {
    let tally = Tally::default();
    metrics::set_global_recorder(tally.clone()).expect("nobody else has installed one");
    tally
});

/// One test at a time, because there is one recorder.
static TURN: Mutex<()> = Mutex::const_new(());

/// What has been added to the series since a moment.
struct Since {
    before: Vec<(&'static str, (f64, u64))>,
    _turn: MutexGuard<'static, ()>,
}

impl Since {
    async fn now(series: &[&'static str]) -> Self {
        let turn = TURN.lock().await;
        Self { before: series.iter().map(|name| (*name, TALLY.of(name))).collect(), _turn: turn }
    }

    /// The sum, and how often something was added.
    fn of(&self, series: &str) -> (i64, u64) {
        let before = self.before.iter().find(|(name, _)| *name == series).expect("a series that is looked at").1;
        let now = TALLY.of(series);
        #[allow(clippy::cast_possible_truncation)]
        ((now.0 - before.0).round() as i64, now.1 - before.1)
    }

    fn sum(&self, series: &str) -> i64 {
        self.of(series).0
    }
}

async fn open(root: &tempfile::TempDir, change: impl FnOnce(&mut Options)) -> TestResult<Store<Counter>> {
    Ok(Store::open_with(root.path(), Counter, options(change)).await?)
}

fn new(name: &str) -> NewInstance {
    NewInstance::with_id(id(name))
}

const DISK: &str = "fiefdom_commits_total level=disk";
const OS: &str = "fiefdom_commits_total level=os";
const BATCHES: &str = "fiefdom_log_batch_commits";
const WAIT: &str = "fiefdom_commit_wait_seconds";
const FLUSH: &str = "fiefdom_log_flush_seconds";
const LIVE: &str = "fiefdom_live_instances";
const OPENED: &str = "fiefdom_activations_total how=opened";
const CREATED: &str = "fiefdom_activations_total how=created";
const IDLE: &str = "fiefdom_passivations_total reason=idle";
const LIMIT: &str = "fiefdom_passivations_total reason=limit";
const SHUTDOWN: &str = "fiefdom_passivations_total reason=shutdown";

#[tokio::test]
async fn commits_are_counted_by_level_and_batches_by_what_is_in_them() -> TestResult {
    let since = Since::now(&[DISK, OS, BATCHES, WAIT, FLUSH]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |_| ()).await?;
    let it = store.create(new("a")).await?;
    for _ in 0..5 {
        it.update(|state| state.value += 1).await?;
    }
    for _ in 0..3 {
        it.commit(|tx| {
            tx.set_durability(Durability::Os);
            tx.event("seen", &1)
        })
        .await?;
    }
    let stats = store.stats().await?;
    store.shutdown().await?;
    assert_eq!((since.sum(DISK), since.sum(OS)), (6, 3));
    assert_eq!(since.of(BATCHES), (9, stats.batches), "the commits of all batches, and the batches");
    assert_eq!(since.of(WAIT).1, stats.batches);
    assert!(since.of(FLUSH).1 >= 6, "one flush for each commit that came alone");
    Ok(())
}

#[tokio::test]
async fn instances_that_come_and_go_are_counted_by_reason() -> TestResult {
    let since = Since::now(&[LIVE, OPENED, CREATED, IDLE, LIMIT, SHUTDOWN]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| {
        options.live_instances = 2;
        options.idle_after = Duration::from_secs(3600);
    })
    .await?;
    for name in ["a", "b", "c"] {
        store.create(new(name)).await?;
    }
    store.get(&id("a")).await?;
    eventually("two are live", || since.sum(LIVE) == 2).await;
    assert_eq!((since.sum(CREATED), since.sum(OPENED)), (3, 1));
    assert_eq!((since.sum(LIMIT), since.sum(IDLE)), (2, 0));
    store.shutdown().await?;
    assert_eq!((since.sum(LIVE), since.sum(SHUTDOWN)), (0, 2));

    let store = open(&root, |options| options.idle_after = Duration::from_millis(20)).await?;
    store.get(&id("a")).await?;
    eventually("it is let go", || since.sum(IDLE) == 1 && since.sum(LIVE) == 0).await;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_dropped_leaves_nothing_in_the_gauges() -> TestResult {
    let gauges = [LIVE, "fiefdom_files_behind", "fiefdom_log_segments_waiting"];
    let since = Since::now(&gauges).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| options.materialise_within = Duration::from_secs(3600)).await?;
    store.create(new("a")).await?.update(|state| state.value = 1).await?;
    assert_eq!((since.sum(LIVE), since.sum("fiefdom_files_behind")), (1, 1));
    drop(store);
    eventually("all gauges are back", || gauges.iter().all(|gauge| since.sum(gauge) == 0)).await;
    Ok(())
}

#[tokio::test]
async fn what_a_dead_process_left_is_counted_when_it_is_recovered() -> TestResult {
    let counters = [
        "fiefdom_recoveries_total",
        "fiefdom_recovered_instances_total",
        "fiefdom_recovered_commits_total",
        "fiefdom_interrupted_total",
    ];
    let since = Since::now(&counters).await;
    let root = tempfile::tempdir()?;
    common::death_at_work("dies_at_work", root.path())?;
    let store = open(&root, |_| ()).await?;
    store.shutdown().await?;
    assert_eq!(counters.map(|counter| since.sum(counter)), [1, 2, 3, 1]);
    Ok(())
}

#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn dies_at_work() -> TestResult {
    common::die_at_work().await
}

#[tokio::test]
async fn a_panic_in_a_closure_is_counted() -> TestResult {
    let since = Since::now(&["fiefdom_crashes_total what=closure"]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |_| ()).await?;
    let it = store.create(new("a")).await?;
    let error = it.update(|_| panic!("as it was told")).await.expect_err("a panic");
    assert!(matches!(error, Error::Panicked { .. }), "{error}");
    store.shutdown().await?;
    assert_eq!(since.sum("fiefdom_crashes_total what=closure"), 1);
    Ok(())
}

#[tokio::test]
async fn commits_that_wait_together_are_as_durable_as_the_most_demanding_of_them() -> TestResult {
    let since = Since::now(&[DISK, OS]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| options.durability = Durability::Os).await?;
    let it = store.create(new("a").durability(Durability::Os)).await?;
    let levels = [Durability::Os, Durability::Disk, Durability::Os];
    let commits = levels.map(|level| {
        it.commit(move |tx| {
            tx.set_durability(level);
            tx.event("seen", &())
        })
    });
    for made in join_all(commits).await {
        made?;
    }
    assert_eq!((since.sum(DISK), since.sum(OS)), (3, 1));
    store.shutdown().await?;
    Ok(())
}

/// Forty updates at once of two instances, and how many of them were refused at a limit. (Those of one
/// instance that wait together are one piece to the log.)
async fn refused(store: &Store<Counter>) -> TestResult<i64> {
    let both = [store.get_or_create(new("a")).await?, store.get_or_create(new("b")).await?];
    let outcomes = join_all((0..40).map(|n| both[n % 2].update(|state| state.value += 1))).await;
    let at_limit = |error: &Error| match error {
        Error::Overloaded { .. } => true,
        Error::NotApplied { reason, .. } => matches!(**reason, Error::Overloaded { .. }),
        _ => false,
    };
    Ok(outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(at_limit)).count().try_into()?)
}

#[tokio::test]
async fn what_is_refused_is_counted_by_the_limit_it_met() -> TestResult {
    type Change = fn(&mut Options);
    let limits: [(&str, Change); 3] = [
        ("fiefdom_overloaded_total what=instance", |options| options.queued_per_instance = 4),
        ("fiefdom_overloaded_total what=store", |options| options.queued_per_store = 4),
        ("fiefdom_overloaded_total what=log", |options| options.queued_bytes = 0),
    ];
    let since = Since::now(&limits.map(|(name, _)| name)).await;
    for (name, change) in limits {
        let root = tempfile::tempdir()?;
        let store = open(&root, change).await?;
        let mut counted = 0;
        // The log may be quick enough once, and take one after the other.
        for _ in 0..1000 {
            counted += refused(&store).await?;
            if counted > 0 {
                break;
            }
        }
        store.shutdown().await?;
        assert!(counted > 0, "{name}: nothing was refused");
        assert_eq!(since.sum(name), counted, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn who_waits_in_vain_for_a_place_is_counted() -> TestResult {
    const LIVE_LIMIT: &str = "fiefdom_overloaded_total what=live_instances";
    let since = Since::now(&[LIVE_LIMIT]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| {
        options.live_instances = 1;
        options.idle_after = Duration::from_millis(40);
        options.activation_wait = Duration::from_millis(20);
    })
    .await?;
    let it = store.create(new("a")).await?;
    let awake = it.keep_awake().await?;
    let error = store.create(new("b")).await.expect_err("no place");
    assert!(matches!(error, Error::Overloaded { .. }), "{error}");
    drop(awake);
    store.shutdown().await?;
    assert_eq!(since.sum(LIVE_LIMIT), 1);
    Ok(())
}

#[tokio::test]
async fn checkpoints_are_counted_and_what_waits_for_one_is_shown() -> TestResult {
    const DONE: &str = "fiefdom_checkpoints_total";
    const WAITING: &str = "fiefdom_log_segments_waiting";
    let since = Since::now(&[DONE, WAITING]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| options.log_segment_age = Duration::from_millis(1)).await?;
    store.create(new("a")).await?;
    eventually("a checkpoint", || since.sum(DONE) >= 1).await;
    store.shutdown().await?;
    assert!(since.of(WAITING).1 >= 2, "it rose and fell: {:?}", since.of(WAITING));
    assert_eq!(since.sum(WAITING), 0);
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_written_are_counted_until_they_can() -> TestResult {
    const FAILURES: &str = "fiefdom_materialise_failures_total";
    const BEHIND: &str = "fiefdom_files_behind";
    let since = Since::now(&[FAILURES, BEHIND, "fiefdom_checkpoint_failures_total"]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |options| options.log_segment_age = Duration::from_millis(1)).await?;
    let it = store.create(new("a")).await?;
    store.flush().await?;
    // A directory in the place of the record: no file can be renamed over it.
    let record = it.path().join("instance.json");
    std::fs::remove_file(&record)?;
    std::fs::create_dir(&record)?;
    it.update(|state| state.value = 1).await?;
    eventually("a failure of the files", || since.sum(FAILURES) >= 1).await;
    eventually("a failure of the checkpoint", || since.sum("fiefdom_checkpoint_failures_total") >= 1).await;
    eventually("it waits", || since.sum(BEHIND) == 1).await;
    std::fs::remove_dir(&record)?;
    store.flush().await?;
    store.shutdown().await?;
    assert_eq!(since.sum(BEHIND), 0);
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_in_the_quarantine_is_counted_once() -> TestResult {
    let since = Since::now(&["fiefdom_quarantined_total"]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |_| ()).await?;
    let it = store.create(new("a")).await?;
    let path = it.path().join("instance.json");
    store.shutdown().await?;
    std::fs::write(&path, "{")?;
    let store = open(&root, |_| ()).await?;
    for _ in 0..2 {
        let error = store.get(&id("a")).await.expect_err("damage");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
    store.shutdown().await?;
    assert_eq!(since.sum("fiefdom_quarantined_total"), 1);
    Ok(())
}

#[tokio::test]
async fn a_batch_over_the_threshold_is_counted_as_slow_and_none_when_that_is_off() -> TestResult {
    const SLOW: &str = "fiefdom_slow_commits_total";
    let since = Since::now(&[SLOW]).await;
    for (threshold, slow) in [(None, 0), (Some(Duration::from_secs(3600)), 0), (Some(Duration::ZERO), 2)] {
        let root = tempfile::tempdir()?;
        let store = open(&root, |options| options.slow_commit = threshold).await?;
        store.create(new("a")).await?.update(|state| state.value = 1).await?;
        store.shutdown().await?;
        assert_eq!(since.sum(SLOW), slow, "{threshold:?}");
    }
    Ok(())
}

#[tokio::test]
async fn everything_that_is_recorded_is_described_with_its_unit() -> TestResult {
    let _since = Since::now(&[]).await;
    let root = tempfile::tempdir()?;
    let store = open(&root, |_| ()).await?;
    store.create(new("a")).await?;
    store.shutdown().await?;
    let names = TALLY.names();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        assert_eq!(TALLY.unit(&name), Some(unit), "{name}");
    }
    Ok(())
}

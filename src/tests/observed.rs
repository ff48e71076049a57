//! What can be seen from outside of a disk that fails: the metrics, and what is told.

use std::sync::{Arc, LazyLock};

use rustix::io::Errno;
use tracing_subscriber::layer::SubscriberExt as _;

use super::listener::Listener;
use super::process::{Process, Step};
use super::tally::Tally;
use super::world::World;
use crate::disk::model::{Disk, Fault, Kind};
use crate::options::Durability::Disk as OnDisk;

/// Wants to be asked about everything, and takes nothing. Without it a place in the code that another thread reaches for
/// the first time, where nobody listens, is switched off for the thread that does: `tracing` asks one subscriber only as
/// long as there is one.
static ASKED: LazyLock<()> = LazyLock::new(|| {
    let nothing = tracing_subscriber::filter::dynamic_filter_fn(|_, _| false);
    let subscriber = tracing_subscriber::registry().with(nothing);
    tracing::subscriber::set_global_default(subscriber).expect("nobody else has installed one");
});

/// What is counted and told while this runs.
fn observed(run: impl FnOnce()) -> (Tally, Listener) {
    LazyLock::force(&ASKED);
    let (tally, listener) = (Tally::default(), Listener::default());
    let subscriber = tracing_subscriber::registry().with(listener.clone());
    tracing::subscriber::with_default(subscriber, || metrics::with_local_recorder(&tally, run));
    (tally, listener)
}

/// A store with one instance, whose next update meets this fault.
fn update_with(which: fn(Kind, &str) -> bool) {
    let disk = Arc::new(Disk::new());
    let world = World::new(&disk, Vec::new());
    let mut process = Process::open(&disk, &world).expect("a root");
    process.step(Step::Create(0, OnDisk)).expect("a step");
    disk.fail(Some(Fault { after: 0, for_ever: true, errno: Errno::IO, which }));
    // What becomes of it is the matter of other tests.
    let _ = process.step(Step::Update(0, OnDisk));
    assert!(disk.fired() > 0, "the fault has struck");
    disk.fail(None);
    std::mem::forget(process);
}

#[test]
fn a_failed_flush_of_the_log_is_counted_as_unknown_and_as_one_poisoning_and_told_as_an_error() {
    let (tally, listener) = observed(|| update_with(|kind, name| kind == Kind::SyncFile && name.contains("journal-")));
    assert_eq!(tally.of("fiefdom_failed_commits_total outcome=unknown"), (1.0, 1));
    assert_eq!(tally.of("fiefdom_failed_commits_total outcome=not_applied"), (0.0, 0));
    assert_eq!(tally.of("fiefdom_poisoned_total"), (1.0, 1));
    let told = listener.events("the commit log is poisoned");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].level, tracing::Level::ERROR);
}

#[test]
fn a_failed_write_of_the_log_is_counted_as_not_applied_and_as_no_poisoning() {
    let (tally, _) = observed(|| update_with(|kind, name| kind == Kind::Write && name.contains("journal-")));
    assert_eq!(tally.of("fiefdom_failed_commits_total outcome=not_applied"), (1.0, 1));
    assert_eq!(tally.of("fiefdom_failed_commits_total outcome=unknown"), (0.0, 0));
    assert_eq!(tally.of("fiefdom_poisoned_total"), (0.0, 0));
}

#[test]
fn an_instance_that_a_recovery_takes_out_of_use_is_counted_and_told_in_its_own_span() {
    let disk = Arc::new(Disk::new());
    let world = World::new(&disk, Vec::new());
    let mut process = Process::open(&disk, &world).expect("a root");
    for step in [Step::Create(0, OnDisk), Step::Update(0, OnDisk), Step::Update(0, OnDisk), Step::Update(0, OnDisk)] {
        process.step(step).expect("a step");
    }
    let image = disk.image();
    std::mem::forget(process);
    let disk = Arc::new(image.after_kill());
    let (name, bytes) = image.files().into_iter().find(|(name, _)| name.contains("journal-")).expect("a segment");
    // The second of four commits: what follows states that it was on disk.
    let commits = bytes.windows(10).enumerate().filter(|(_, at)| *at == b"{\"commit\":").map(|(at, _)| at);
    disk.flip(&name, commits.collect::<Vec<_>>()[1] + 12);
    let (tally, listener) = observed(|| {
        let process = Process::open_without_looking(&disk, &World::new(&disk, Vec::new())).expect("a root");
        std::mem::forget(process);
    });
    assert_eq!(tally.of("fiefdom_blocked_total"), (1.0, 1));
    assert!(tally.of("fiefdom_quarantined_total").1 >= 1);
    let told = listener.events("cannot be recovered");
    assert_eq!(told.len(), 1);
    let span = told[0].spans.first().expect("a span");
    assert_eq!((span.name, span.get("id"), span.get("epoch")), ("recover_instance", Some("a"), Some("1")));
    assert!(!listener.events("copied to the quarantine").is_empty());
}

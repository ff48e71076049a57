//! The runner works on the next job while the end of the last becomes durable: what that may not cost.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{TestResult, another_process, id};
use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Job, Outcome, Runner};
use fiefdom::{BoxError, Instance, NewInstance, Session, Status, Store};
use serde_json::json;
use tokio::sync::oneshot;

/// How long something that must happen may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A kind of jobs of which the first cannot make its end durable for a while: a commit that blocks is
/// before it.
#[derive(Default)]
struct Steps {
    /// The job whose end is held up, until this is locked by nobody.
    held: Option<(&'static str, Arc<Mutex<()>>)>,
    /// Attempts that have ended.
    ended: AtomicUsize,
}

impl Instance for Steps {
    const KIND: &'static str = "step";
    type State = ();
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<(), BoxError> {
        Ok(())
    }
}

impl Job for Steps {
    async fn run(&self, session: Session<Self>, _: Attempt) -> Result<(), BoxError> {
        if let Some((name, lock)) = &self.held
            && session.id().as_str() == *name
        {
            let begun = Arc::new(AtomicBool::new(false));
            let (session, lock, has_begun) = (session.clone(), Arc::clone(lock), Arc::clone(&begun));
            tokio::spawn(async move {
                let hold_up = move |tx: &mut fiefdom::Transaction<()>| {
                    has_begun.store(true, Ordering::SeqCst);
                    // The runtime goes on without this thread.
                    tokio::task::block_in_place(|| drop(lock.lock()));
                    tx.event("held", &json!({}))
                };
                session.commit(hold_up).await
            });
            while !begun.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
        println!("\nended {}", session.id());
        Ok(())
    }
}

async fn three_jobs(store: &Store<Steps>) -> TestResult<Batch> {
    let items = ["a", "b", "c"].map(|name| BatchItem::new(id(name), json!(null)));
    Ok(Batch::open(store, id("batch"), items, BatchSettings::default()).await?)
}

fn held_up() -> (Steps, Arc<Mutex<()>>) {
    let lock = Arc::new(Mutex::new(()));
    (Steps { held: Some(("a", Arc::clone(&lock))), ..Steps::default() }, lock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_end_of_a_job_is_not_durable_its_worker_does_one_more_and_reports_none() -> TestResult {
    let root = tempfile::tempdir()?;
    let (steps, lock) = held_up();
    let (release, locked) = (oneshot::channel::<()>(), oneshot::channel());
    let holding = std::thread::spawn(move || {
        let _held = lock.lock();
        let _ = locked.0.send(());
        let _ = release.1.blocking_recv();
    });
    locked.1.await?;
    let store = Store::open(root.path(), steps).await?;
    let batch = three_jobs(&store).await?;
    let told = Arc::new(Mutex::new(Vec::new()));
    let running = tokio::spawn({
        let (batch, told) = (batch.clone(), Arc::clone(&told));
        let runner = Runner::new(store.clone()).concurrency(1);
        async move { runner.run(&batch, |report| told.lock().expect("whole").push(report.id.to_string())).await }
    });
    let begun = Instant::now();
    while store.kind().ended.load(Ordering::SeqCst) < 2 {
        assert!(begun.elapsed() < DEADLINE, "the second job waits for the disk of the first");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A third would begin within this.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(store.kind().ended.load(Ordering::SeqCst), 2, "outcomes that wait for the disk pile up");
    assert_eq!((batch.progress().await?.completed, batch.progress().await?.current), (0, 2));
    assert!(told.lock().expect("whole").is_empty(), "reported before it is durable");

    drop(release.0);
    holding.join().map_err(|_| "the thread panicked")?;
    let summary = running.await??;
    assert!(summary.all_succeeded(), "{summary:?}");
    assert_eq!(*told.lock().expect("whole"), ["a", "b", "c"]);
    store.shutdown().await?;
    Ok(())
}

/// The process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "started by another test"]
async fn be_a_runner() -> TestResult {
    let (steps, lock) = held_up();
    // It is killed long before.
    std::thread::spawn(|| {
        std::thread::sleep(DEADLINE);
        std::process::exit(1);
    });
    // For good.
    std::mem::forget(lock.lock().map_err(|_| "poisoned")?);
    let store = Store::open(Path::new(&std::env::var("FIEFDOM_TEST_ROOT")?), steps).await?;
    let batch = three_jobs(&store).await?;
    Runner::new(store.clone()).concurrency(1).run(&batch, |report| println!("\nreported {}", report.id)).await?;
    Ok(())
}

#[test]
fn a_job_that_has_ended_is_run_again_when_a_kill_comes_before_its_outcome() -> TestResult {
    let root = tempfile::tempdir()?;
    let mut child = another_process("be_a_runner")?
        .env("FIEFDOM_TEST_ROOT", root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut said = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        said.push(line?);
        if said.last().is_some_and(|line| line == "ended b") {
            child.kill()?;
        }
    }
    child.wait()?;
    assert!(said.iter().any(|line| line == "ended a") && said.iter().any(|line| line == "ended b"), "{said:?}");
    assert!(!said.iter().any(|line| line.starts_with("reported")), "{said:?}");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(root.path(), Steps::default()).await?;
        let batch = Batch::load(&store, &id("batch")).await?;
        assert_eq!(batch.progress().await?.interrupted, 2);
        assert_eq!(store.get(&id("a")).await?.record().await?.status, Status::Interrupted);
        let mut reports = Vec::new();
        let runner = Runner::new(store.clone()).concurrency(1);
        let summary = runner.run(&batch, |r| reports.push((r.id.to_string(), r.outcome, r.attempt))).await?;
        let succeeded = |name: &str, attempt| (name.to_owned(), Outcome::Succeeded, attempt);
        assert_eq!(reports, [succeeded("a", 2), succeeded("b", 2), succeeded("c", 1)]);
        assert!(summary.all_succeeded(), "{summary:?}");
        store.shutdown().await?;
        Ok(())
    })
}

//! The runner as a library: typed jobs, and what becomes of them.
#![allow(missing_docs)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{TestResult, id};
use fiefdom::jobs::{
    Attempt, Batch, BatchItem, BatchSettings, CommandInput, CommandJob, Job, JobReport, Outcome, RetryPolicy, Runner,
    Summary,
};
use fiefdom::{BoxError, Error, Instance, NewInstance, Session, Status, Store};
use serde_json::json;

/// What a job is told to do.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    Succeed,
    Fail,
    FailUntil(u32),
    Panic,
    /// Until it is told to stop.
    Wait,
    /// And no more, also when it is told to.
    Hang,
}

/// A kind of jobs that counts how many are at work at once.
#[derive(Default)]
struct Tasks {
    now: AtomicU32,
    most: AtomicU32,
    runs: AtomicU32,
}

impl Instance for Tasks {
    const KIND: &'static str = "task";
    type State = Task;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<Task, BoxError> {
        Ok(new.input_as()?)
    }
}

impl Job for Tasks {
    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        match session.state().await? {
            Task::Fail => Err("as it was told".into()),
            Task::FailUntil(last) if attempt.number < last => Err("not yet".into()),
            Task::Succeed | Task::FailUntil(_) => Ok(()),
            Task::Panic => panic!("as it was told"),
            Task::Wait => {
                attempt.stopped().await;
                Err("stopped".into())
            }
            Task::Hang => std::future::pending().await,
        }
    }
}

async fn batch(store: &Store<Tasks>, name: &str, tasks: &[(&str, serde_json::Value)]) -> TestResult<Batch> {
    let items = tasks.iter().map(|(name, task)| BatchItem::new(id(name), task.clone())).collect::<Vec<_>>();
    Ok(Batch::open(store, id(name), items, BatchSettings::default()).await?)
}

async fn run(runner: &Runner<Tasks>, batch: &Batch) -> TestResult<(Summary, Vec<JobReport>)> {
    let mut reports = Vec::new();
    let summary = runner.run(batch, |report| reports.push(report.clone())).await?;
    reports.sort_by(|a, b| a.id.cmp(&b.id));
    Ok((summary, reports))
}

fn kinds(store: &Store<Tasks>, name: &str) -> TestResult<Vec<String>> {
    Ok(store.view().events(&id(name), 1)?.into_iter().map(|event| event.kind).collect())
}

#[tokio::test]
async fn no_more_run_at_once_than_may_and_as_many_as_can() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let names: Vec<String> = (0..30).map(|n| format!("j{n}")).collect();
    let tasks: Vec<_> = names.iter().map(|name| (name.as_str(), json!("succeed"))).collect();
    let batch = batch(&store, "b", &tasks).await?;
    let (summary, reports) = run(&Runner::new(store.clone()).concurrency(3), &batch).await?;
    assert!(summary.all_succeeded() && reports.len() == 30);
    assert_eq!(store.kind().most.load(Ordering::SeqCst), 3);

    // Again: nothing is run that has succeeded, also when one of them was deleted and is made anew.
    let (summary, _) = run(&Runner::new(store.clone()), &batch).await?;
    assert_eq!((summary.succeeded, summary.already_succeeded), (30, 30));
    store.delete(&id("j7")).await?;
    let (summary, _) = run(&Runner::new(store.clone()), &batch).await?;
    assert_eq!((summary.succeeded, summary.already_succeeded), (30, 29));
    assert_eq!(store.kind().runs.load(Ordering::SeqCst), 31);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn each_job_fails_for_itself() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let tasks = [
        ("a-fails", json!("fail")),
        ("b-panics", json!("panic")),
        ("c-is-no-task", json!({ "dance": 1 })),
        ("d-succeeds", json!("succeed")),
    ];
    let batch = batch(&store, "b", &tasks).await?;
    let (summary, reports) = run(&Runner::new(store.clone()).concurrency(1), &batch).await?;
    assert_eq!((summary.succeeded, summary.failed, summary.unfinished), (1, 3, 0));
    let errors: Vec<_> = reports.iter().map(|r| r.error.as_deref().unwrap_or("none")).collect();
    assert_eq!(errors[0], "as it was told");
    assert!(errors[1].contains("panicked"), "{errors:?}");
    assert!(errors[2].contains("dance"), "{errors:?}");
    assert_eq!((reports[2].attempt, errors[3]), (0, "none"));
    assert!(!root.path().join("instances/c-is-no-task").exists(), "nothing half-made stays");
    assert_eq!(store.get(&id("a-fails")).await?.record().await?.status_reason.as_deref(), Some("as it was told"));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_is_tried_again_as_often_as_the_policy_says() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let batch = batch(&store, "b", &[("late", json!({ "fail_until": 3 })), ("never", json!("fail"))]).await?;
    let runner = Runner::new(store.clone()).retry(RetryPolicy::attempts(3).with_base(Duration::from_millis(1)));
    let (summary, reports) = run(&runner, &batch).await?;
    assert_eq!((summary.succeeded, summary.failed), (1, 1));
    assert_eq!((reports[0].attempt, reports[1].attempt), (3, 3));
    store.flush().await?;
    let expected = ["job.started", "job.retry", "job.started", "job.retry", "job.started", "job.succeeded"];
    assert_eq!(kinds(&store, "late")?, expected);
    // The next run has attempts of its own, and they are counted on.
    let (_, reports) = run(&runner, &batch).await?;
    assert_eq!((reports[0].outcome, reports[1].attempt), (Outcome::AlreadySucceeded, 6));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_told_to_stop_and_then_dropped() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let batch = batch(&store, "b", &[("hangs", json!("hang")), ("waits", json!("wait"))]).await?;
    let short = Duration::from_millis(50);
    let (summary, reports) = run(&Runner::new(store.clone()).timeout(Some(short)).grace(short), &batch).await?;
    assert_eq!(summary.failed, 2);
    assert!(reports.iter().all(|r| r.error.as_deref().is_some_and(|e| e.contains("longer than 50ms"))), "{reports:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_runner_that_is_stopped_leaves_the_rest_for_the_next() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let tasks = [("a", json!("wait")), ("b", json!("succeed")), ("c", json!({ "fail_until": 2 }))];
    let all = batch(&store, "all", &tasks).await?;
    let runner = Runner::new(store.clone()).concurrency(1).timeout(None);
    let stop = runner.stop_token();
    let begun = tokio::spawn({
        let store = store.clone();
        async move {
            while store.kind().runs.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        }
    });
    let (summary, reports) = run(&runner, &all).await?;
    begun.await?;
    assert_eq!((summary.unfinished, reports.len()), (3, 1));
    assert_eq!(store.get(&id("a")).await?.record().await?.status, Status::Interrupted);
    assert!(matches!(store.get(&id("b")).await, Err(Error::NotFound { .. })), "it was not begun");

    // Somebody calls off the one that waits; the others go on.
    let waiting = store.get(&id("a")).await?;
    let called_off = tokio::spawn(async move {
        while waiting.record().await?.status != Status::Running {
            tokio::task::yield_now().await;
        }
        waiting.cancel().await
    });
    let (summary, reports) = run(&Runner::new(store.clone()), &all).await?;
    called_off.await??;
    assert_eq!((summary.succeeded, summary.cancelled, summary.failed), (1, 1, 1));
    assert_eq!((reports[0].outcome, reports[0].attempt), (Outcome::Cancelled, 2));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_begin_in_the_order_of_the_list() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), CommandJob).await?;
    let list = root.path().join("list");
    let command = format!("echo $FIEFDOM_INSTANCE_ID >>{}", list.display());
    let names: Vec<String> = (0..100).map(|number| format!("job-{number}")).collect();
    let items = names.iter().map(|name| BatchItem::new(id(name), json!(CommandInput::new(&command))));
    let all = Batch::create(&store, items.collect::<Vec<_>>()).await?;
    let summary = Runner::new(store.clone()).concurrency(1).run(&all, |_| {}).await?;
    assert!(summary.all_succeeded());
    assert!(std::fs::read_to_string(list)?.lines().eq(&names));
    drop(all);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_has_succeeded_is_not_opened_again() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let all = batch(&store, "b", &[("a", json!("succeed")), ("c", json!({ "fail_until": 2 }))]).await?;
    let (summary, _) = run(&Runner::new(store.clone()), &all).await?;
    assert_eq!((summary.succeeded, summary.failed), (1, 1));
    store.shutdown().await?;
    drop(all);

    // Every activation raises the epoch; and a record that nobody can read does no harm.
    let path = root.path().join("instances/a/instance.json");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, "unreadable")?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let all = Batch::load(&store, &id("b")).await?;
    let (summary, reports) = run(&Runner::new(store.clone()), &all).await?;
    assert_eq!((summary.succeeded, summary.already_succeeded), (2, 1));
    assert_eq!((reports[0].outcome, reports[0].attempt), (Outcome::AlreadySucceeded, 1));
    assert_eq!((reports[1].outcome, reports[1].attempt), (Outcome::Succeeded, 2));
    store.shutdown().await?;
    std::fs::write(&path, text)?;
    Ok(())
}

#[tokio::test]
async fn a_batch_of_version_1_goes_on_with_what_has_not_succeeded() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Tasks::default()).await?;
    let all = batch(&store, "b", &[("a", json!("succeed")), ("c", json!({ "fail_until": 2 }))]).await?;
    run(&Runner::new(store.clone()), &all).await?;
    store.shutdown().await?;
    drop(all);
    // As version 1 left it.
    let path = root.path().join("instances/b/instance.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    record["schema_version"] = 1.into();
    let settings = json!({ "concurrency": null, "retries": 0, "timeout_ms": null });
    record["state"] = json!({ "total": 2, "settings": settings, "succeeded": 1, "failed": 1 });
    std::fs::write(&path, record.to_string())?;

    let store = Store::open(root.path(), Tasks::default()).await?;
    let all = Batch::load(&store, &id("b")).await?;
    let (summary, reports) = run(&Runner::new(store.clone()), &all).await?;
    assert_eq!((summary.succeeded, summary.already_succeeded), (2, 1));
    assert_eq!((reports[0].attempt, reports[1].attempt), (1, 2));
    assert_eq!(store.kind().runs.load(Ordering::SeqCst), 1, "only the one that had failed is run");
    assert!(all.is_done().await?);
    store.shutdown().await?;
    Ok(())
}

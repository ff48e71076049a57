//! The tracing: who listens knows of which instance and which activation everything is that is told.
//! What is told of a disk that fails is in src/tests/observed.rs, on the model disk.
#![allow(missing_docs)]

mod common;
#[path = "common/listener.rs"]
mod listener;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::{Counter, TestResult, eventually, id, options};
use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Job, Runner};
use fiefdom::{BoxError, Instance, NewInstance, Retention, RetentionRule, Session, Status, Store};
use listener::{Listener, Span};
use tracing::Level;
use tracing_subscriber::layer::SubscriberExt as _;

/// The subscriber of the process. Each test has instances of its own.
static LISTENER: LazyLock<Listener> = LazyLock::new(|| {
    let listener = Listener::default();
    let subscriber = tracing_subscriber::registry().with(listener.clone());
    tracing::subscriber::set_global_default(subscriber).expect("nobody else has installed one");
    listener
});

async fn open(root: &tempfile::TempDir) -> TestResult<Store<Counter>> {
    LazyLock::force(&LISTENER);
    Ok(Store::open(root.path(), Counter).await?)
}

fn new(name: &str) -> NewInstance {
    NewInstance::with_id(id(name))
}

fn has(spans: &[Span], name: &str, epoch: &str) -> bool {
    spans.iter().any(|span| span.name == name && span.get("epoch") == Some(epoch))
}

#[tokio::test]
async fn every_part_of_a_life_has_a_span_with_id_and_epoch() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(&root).await?;
    store.create(new("life")).await?.update(|state| state.value = 1).await?;
    store.flush().await?;
    store.shutdown().await?;
    let store = open(&root).await?;
    store.get(&id("life")).await?.update(|state| state.value = 2).await?;
    store.delete(&id("life")).await?;
    store.shutdown().await?;
    let spans = LISTENER.spans_of("life");
    for (name, epoch) in [
        ("create", "1"),
        ("commit", "1"),
        ("materialise", "1"),
        ("passivate", "1"),
        ("activate", "2"),
        ("commit", "2"),
        ("delete", "2"),
    ] {
        assert!(has(&spans, name, epoch), "no span {name} of epoch {epoch}: {spans:#?}");
    }
    assert!(spans.iter().all(|span| span.get("epoch").is_some()), "{spans:#?}");
    Ok(())
}

#[tokio::test]
async fn a_collection_has_a_span_and_so_has_each_deletion_in_it() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(&root).await?;
    store.create(new("collected")).await?.transition(Status::Cancelled, None).await?;
    store.shutdown().await?;
    let store = open(&root).await?;
    let report = store.gc(&Retention::new().rule(RetentionRule::new())).await?;
    assert_eq!(report.deleted.len(), 1);
    store.shutdown().await?;
    assert!(has(&LISTENER.spans_of("collected"), "delete", "2"), "{:#?}", LISTENER.spans_of("collected"));
    let spans = LISTENER.spans_called("gc");
    let fields = ["looked_at", "deleted", "refused"].map(|field| spans[0].get(field));
    assert_eq!(fields, [Some("1"), Some("1"), Some("0")]);
    Ok(())
}

#[tokio::test]
async fn what_a_closure_tells_is_known_to_be_of_its_instance() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(&root).await?;
    let it = store.create(new("closure")).await?;
    it.update(|_| tracing::info!("told in a closure")).await?;
    store.shutdown().await?;
    let told = LISTENER.events("told in a closure");
    let span = told[0].spans.first().ok_or("no span")?;
    assert_eq!((span.name, span.get("id"), span.get("epoch")), ("commit", Some("closure"), Some("1")));
    Ok(())
}

#[tokio::test]
async fn coming_to_life_and_being_let_go_are_told_with_the_reason() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(&root).await?;
    store.create(new("goes")).await?;
    store.shutdown().await?;
    let of = |text| LISTENER.events(text).into_iter().filter(|told| told.get("id") == Some("goes")).collect::<Vec<_>>();
    let (live, gone) = (of("an instance is live"), of("an instance is let go"));
    assert_eq!((live.len(), gone.len()), (1, 1));
    assert_eq!((live[0].get("epoch"), live[0].level), (Some("1"), Level::DEBUG));
    assert_eq!((gone[0].get("epoch"), gone[0].get("reason")), (Some("1"), Some("shutdown")));
    Ok(())
}

#[tokio::test]
async fn a_recovery_is_told_and_each_instance_has_its_span_in_it() -> TestResult {
    let root = tempfile::tempdir()?;
    common::death_at_work("dies_at_work", root.path())?;
    open(&root).await?.shutdown().await?;
    let told = LISTENER.events("recovered what dead writers left");
    let recovered = told.first().ok_or("nothing was told")?;
    assert_eq!((recovered.get("instances"), recovered.get("interrupted")), (Some("2"), Some("1")));
    assert!(recovered.spans.iter().any(|span| span.name == "recover"));
    assert!(has(&LISTENER.spans_of("works"), "recover_instance", "1"));
    Ok(())
}

#[tokio::test]
#[ignore = "run by another test, in a process of its own"]
async fn dies_at_work() -> TestResult {
    common::die_at_work().await
}

#[tokio::test]
async fn of_slow_commits_the_first_is_told_with_what_it_waited_for() -> TestResult {
    LazyLock::force(&LISTENER);
    let root = tempfile::tempdir()?;
    let slow = options(|options| options.slow_commit = Some(Duration::ZERO));
    let begun = Instant::now();
    let store = Store::open_with(root.path(), Counter, slow).await?;
    let it = store.create(new("slow")).await?;
    for _ in 0..20 {
        it.update(|state| state.value += 1).await?;
    }
    store.shutdown().await?;
    // On a slow disk others are told of, too; and it is told once in ten seconds.
    let mut told = LISTENER.events("a commit took long to become durable");
    told.retain(|told| told.get("id") == Some("slow"));
    assert!(!told.is_empty() && told.len() as u64 <= 1 + begun.elapsed().as_secs() / 10, "{told:#?}");
    let told = &told[0];
    assert_eq!(told.level, Level::WARN);
    assert_eq!((told.get("id"), told.get("epoch"), told.get("commits")), (Some("slow"), Some("1"), Some("1")));
    assert!(told.get("waited").is_some() && told.get("at_the_disk").is_some() && told.get("held_back") == Some("0"));
    assert!(told.says("what else uses that disk"), "it ends in what to do next");
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_written_are_told_with_id_and_epoch() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(&root).await?;
    let it = store.create(new("stuck")).await?;
    store.flush().await?;
    let record = it.path().join("instance.json");
    std::fs::remove_file(&record)?;
    std::fs::create_dir(&record)?;
    it.update(|state| state.value = 1).await?;
    let told = || {
        let mut told = LISTENER.events("the files of an instance could not be written").into_iter();
        told.find(|told| told.get("id") == Some("stuck"))
    };
    eventually("it is told", || told().is_some()).await;
    let told = told().ok_or("it was there")?;
    assert_eq!((told.level, told.get("epoch")), (Level::WARN, Some("1")));
    assert_eq!(told.spans.first().map(|span| span.name), Some("materialise"));
    std::fs::remove_dir(&record)?;
    store.shutdown().await?;
    Ok(())
}

/// A kind of jobs that say something.
struct Talk;

impl Instance for Talk {
    const KIND: &'static str = "talk";
    type State = serde_json::Value;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<serde_json::Value, BoxError> {
        Ok(serde_json::Value::Null)
    }
}

impl Job for Talk {
    async fn run(&self, _: Session<Self>, _: Attempt) -> Result<(), BoxError> {
        tracing::info!("told in a job");
        Ok(())
    }
}

#[tokio::test]
async fn what_a_job_tells_is_known_to_be_of_its_instance_and_its_attempt() -> TestResult {
    LazyLock::force(&LISTENER);
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Talk).await?;
    let item = BatchItem::new(id("talks"), serde_json::Value::Null);
    let batch = Batch::open(&store, id("talking"), vec![item], BatchSettings::default()).await?;
    let summary = Runner::new(store.clone()).run(&batch, |_| ()).await?;
    assert!(summary.all_succeeded());
    let gone = || LISTENER.events("an instance is let go").into_iter().find(|told| told.get("id") == Some("talks"));
    eventually("it is let go when its job is done", || gone().is_some()).await;
    assert_eq!(gone().ok_or("it was there")?.get("reason"), Some("request"));
    store.shutdown().await?;
    let told = LISTENER.events("told in a job");
    let span = told[0].spans.first().ok_or("no span")?;
    let fields = ["id", "epoch", "attempt"].map(|field| span.get(field));
    assert_eq!((span.name, fields), ("job", [Some("talks"), Some("1"), Some("1")]));
    Ok(())
}

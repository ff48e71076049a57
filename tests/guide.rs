//! Every piece of Rust in docs/guide.md, word by word, in a test that runs it.
#![allow(missing_docs)]
// As on the page: what a piece needs stands above it.
#![allow(clippy::items_after_statements)]

use std::path::Path;
use std::time::Duration;

use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Claim, Job, RetryPolicy, Runner};
use fiefdom::{
    BoxError, FileState, ImportOptions, Instance, InstanceId, Migration, NewInstance, Session, StateFile, Store,
    Untyped,
};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

type TestResult<T = ()> = Result<T, BoxError>;

/// A text without what rustfmt and the line length of a page decide.
fn dense(text: &str) -> String {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    [")", "]", "}"].iter().fold(dense, |text, close| text.replace(&format!(",{close}"), close))
}

/// The pieces of Rust of a page. At an empty line, and where a line with `// …` says so, something is
/// left out.
fn pieces(page: &str) -> Vec<String> {
    let blocks = page.split("```rust").skip(1).filter_map(|rest| rest.split_once('\n')?.1.split("\n```").next());
    let parts = blocks.flat_map(|block| block.split("\n\n").flat_map(|part| part.split("// …")));
    parts.map(dense).collect()
}

#[test]
fn what_the_guide_shows_is_what_runs_here() -> TestResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = dense(&std::fs::read_to_string(root.join("tests/guide.rs"))?);
    let pieces = pieces(&std::fs::read_to_string(root.join("docs/guide.md"))?);
    assert!(pieces.len() > 8, "{}", pieces.len());
    for piece in pieces {
        assert!(here.contains(&piece), "docs/guide.md has, and tests/guide.rs has not: {piece}");
    }
    Ok(())
}

async fn open(dir: &tempfile::TempDir) -> TestResult<Store<Untyped>> {
    Ok(Store::open(dir.path().join("root"), Untyped).await?)
}

fn summarise(chapter: &str) -> Result<usize, BoxError> {
    if chapter.is_empty() { Err("there is nothing in it".into()) } else { Ok(chapter.len()) }
}

#[tokio::test]
async fn a_batch() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = open(&dir).await?;
    let (chapters, tokens) = (["one", "", "three"].map(str::to_owned), 80_000);

    let batch = Batch::open(&store, "chapters".parse()?, chapters, BatchSettings::default()).await?;
    while let Some(claim) = batch.next().await? {
        match summarise(claim.item()) {
            Ok(summary) => batch.mark_completed(&claim, summary).await?,
            Err(error) => batch.mark_failed(&claim, error).await?,
        }
        batch.record_usage(tokens).await?;
        if batch.should_clear_context().await? {
            batch.record_context_clear().await?;
        }
    }

    let _: Option<Claim<String>> = batch.next().await?;
    let progress = batch.progress().await?;
    assert_eq!((progress.completed, progress.failed, batch.is_done().await?), (2, 1, true));
    Ok(store.shutdown().await?)
}

/// Fetches 90 pages. The first attempt is cut short after 40 of them.
struct Fetch;

impl Instance for Fetch {
    const KIND: &'static str = "fetch";
    type State = Vec<u64>;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Vec<u64>, BoxError> {
        Ok(Vec::new())
    }
}

impl Job for Fetch {
    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        if attempt.number == 1 {
            use fiefdom::Checkpoint;

            // In the middle of the work:
            session
                .checkpoint(
                    Checkpoint::new("fetched")
                        .message("40 of 90")
                        .data(json!({ "next": 41 }))
                        .worker("agent-2")
                        .tool("curl"),
                )
                .await?;
            return Err("the line is down".into());
        }

        // At the next attempt, in `Job::run(session, attempt)`, whatever became of the process:
        let next = attempt.checkpoint.map_or(1, |last| last.checkpoint.data["next"].as_u64().unwrap_or(1));

        Ok(session.update(move |pages| pages.extend(next..=90)).await?)
    }
}

#[tokio::test]
async fn going_on_after_an_interruption() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path().join("root"), Fetch).await?;
    let item = BatchItem::new("pages".parse()?, Value::Null);
    let batch = Batch::open(&store, "all".parse()?, [item], BatchSettings::default()).await?;
    let retry = RetryPolicy::attempts(2);
    assert!(Runner::new(store.clone()).retry(retry).run(&batch, |_| {}).await?.all_succeeded());
    let pages = store.get(&"pages".parse()?).await?.state().await?;
    assert_eq!(pages, (41..=90).collect::<Vec<_>>());
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn asking_people() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = open(&dir).await?;
    let session = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    let person = session.clone();
    let person = tokio::spawn(async move {
        while person.input_requests().await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        TestResult::Ok(person.answer("deploy", json!("yes")).await?)
    });

    let answer = session.request_input("deploy", "The tests pass. Deploy?", json!({ "enum": ["yes", "no"] })).await?;

    person.await??;
    assert_eq!(answer, "yes");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn control_from_outside() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = open(&dir).await?;
    let id: InstanceId = "nightly-8".parse()?;
    store.create(NewInstance::with_id(id.clone())).await?;

    use fiefdom::control::{Change, Operation};

    let done = store.control(&id, Operation::Update(Change::new().merge(json!({ "priority": 2 })))).await?;
    println!("revision {} by {:?}", done.record.revision, done.owner);

    assert_eq!((&done.record.state["priority"], done.owner), (&json!(2), None));
    Ok(store.shutdown().await?)
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Build {
    attempts: u32,
}

impl Instance for Build {
    const KIND: &'static str = "build";
    type State = Build;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Build, BoxError> {
        Ok(Build::default())
    }
}

#[tokio::test]
async fn waking_an_instance_later() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path().join("root"), Build::default()).await?;
    let session = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    let now = store.create(NewInstance::with_id("build-43".parse()?)).await?;
    now.set_alarm(chrono::Utc::now(), "at once").await?;

    use chrono::{TimeDelta, Utc};

    let at = Utc::now() + TimeDelta::minutes(90);
    session.set_alarm(at, "look again").await?; // replaces the alarm that it may have
    session
        .commit(move |tx| {
            // or together with other changes
            tx.state_mut().attempts += 1;
            tx.set_alarm(at, &"look again")
        })
        .await?;

    // The alarms end with the store: here when the one that is due is done.
    let (ending, later) = (store.clone(), session.clone());
    let end = tokio::spawn(async move {
        while now.record().await?.alarm.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(later.record().await?.alarm.is_some(), "its time has not come");
        TestResult::Ok(ending.shutdown().await?)
    });

    let mut alarms = store.alarms(); // in this program, or in another, or after a restart
    while let Some(due) = alarms.next().await {
        let due = due?;
        println!("{}: {}", due.id(), due.payload::<String>()?);
        due.done().await?; // until then it comes again
    }

    end.await?
}

#[tokio::test]
async fn letting_go_of_what_is_over() -> TestResult {
    let dir = tempfile::tempdir()?;
    let store = open(&dir).await?;

    use fiefdom::{Retention, RetentionRule, Status};
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);
    let policy = Retention::new()
        .rule(RetentionRule::new().status(Status::Failed).older_than(30 * DAY))
        .rule(RetentionRule::new().older_than(7 * DAY).keep(100));
    let would = store.gc_dry_run(&policy).await?; // nothing is changed
    let report = store.gc(&policy).await?; // report.deleted, report.refused, report.bytes_freed
    let task = store.gc_every(policy, DAY)?; // in the background, until task.stop() or the store ends

    assert_eq!((would.deleted.len(), report.deleted.len()), (0, 0), "there is nothing");
    task.stop();
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn taking_an_instance_elsewhere() -> TestResult {
    let (dir, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (store, other) = (open(&dir).await?, open(&other).await?);
    let (id, archive): (InstanceId, _) = ("build-42".parse()?, dir.path().join("build-42.tar.gz"));
    store.create(NewInstance::with_id(id.clone())).await?;

    let exported = store.export_file(&id, &archive).await?; // such as "build-42.tar.gz"
    let file = std::fs::File::open(&archive)?;
    let imported = other.import(file, ImportOptions::with_id("build-42-again".parse()?)).await?;
    assert_eq!(imported.origin.revision, exported.revision);

    other.shutdown().await?;
    Ok(store.shutdown().await?)
}

struct Recipe;

#[derive(Clone, Serialize, Deserialize)]
struct RecipeState {
    title: String,
    seconds: u64,
}

#[rustfmt::skip]
impl Instance for Recipe {
    const KIND: &'static str = "recipe";
    const SCHEMA_VERSION: u32 = 3;
    type State = RecipeState;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> { Ok(()) }
    fn initial(&self, (): &(), new: &NewInstance) -> Result<RecipeState, BoxError> { Ok(new.input_as()?) }

    fn migrate(from: u32, mut state: Value) -> Result<Value, BoxError> {
        match from {
            1 => { state["minutes"] = json!(state["minutes"].as_str().ok_or("no text")?.parse::<u64>()?); Ok(state) }
            2 => Ok(json!({ "title": state["title"], "seconds": state["minutes"].as_u64().ok_or("no number")? * 60 })),
            _ => Err(format!("there is no version {from}").into()),
        }
    }
}

#[tokio::test]
async fn state_that_changes_its_shape() -> TestResult {
    let dir = tempfile::tempdir()?;
    let old = open(&dir).await?;
    let soup = NewInstance::with_id("soup".parse()?).kind(Recipe::KIND);
    old.create(soup.input(json!({ "title": "Soup", "minutes": "45" }))).await?;
    old.shutdown().await?;
    let store = Store::open(dir.path().join("root"), Recipe).await?;

    let mut run = Migration::new().kind::<Recipe>().run(&store).await?; // rehearse(&view) to only try
    println!("{} instances", run.total());
    while let Some(one) = run.next().await {
        println!("{}: {:?}", one.id, one.outcome); // Migrated, Current, UnknownKind, Locked(..), Failed(..)
    }

    store.shutdown().await?;
    let record = std::fs::read(dir.path().join("root/instances/soup/instance.json"))?;
    let record: Value = serde_json::from_slice(&record)?;
    assert_eq!(record["state"], json!({ "title": "Soup", "seconds": 2700 }));
    Ok(())
}

#[derive(Default, Serialize, Deserialize)]
struct Preferences {
    theme: String,
}

impl FileState for Preferences {
    const KIND: &'static str = "preferences";
    fn validate(&self) -> Result<(), BoxError> {
        if self.theme.len() > 40 { Err("theme is at most 40 bytes long".into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn one_file_of_a_user() -> TestResult {
    let dir = tempfile::tempdir()?;
    let config = dir.path();

    let file = StateFile::<Preferences>::at(config.join("my-tool/preferences.json"));
    let theme = file.load().await?.theme; // no lock; the default when there is no file
    file.update(|preferences| preferences.theme = "dark".into()).await?; // on disk when it returns

    assert_eq!((theme.as_str(), file.load().await?.theme.as_str()), ("", "dark"));
    Ok(())
}

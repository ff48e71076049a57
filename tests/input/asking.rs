//! Asking, waiting and answering, in the process that works.

use std::time::Duration;

use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Job, RetryPolicy, Runner};
use fiefdom::{BoxError, Doctor, Error, Instance, NewInstance, Session, Status, Store, Unanswered, Untyped, View};
use serde_json::{Value, json};

use crate::cli::Fief;
use crate::common::{TestResult, eventually, id};
use crate::{asking, file_of, in_file, kinds, running, status, why, yes_or_no};

#[tokio::test]
async fn what_is_asked_is_on_disk_while_it_waits_and_the_answer_wakes_it() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let asking = asking(&instance, "deploy").await?;
    let record = instance.record().await?;
    assert_eq!((record.status, record.status_reason.as_deref()), (Status::Waiting, Some("asks deploy: Deploy?")));
    let file = in_file(root.path(), "a", "deploy").ok_or("no file")?;
    assert_eq!((&file["prompt"], &file["schema"], &file["asked_seq"]), (&json!("Deploy?"), &yes_or_no(), &json!(1)));
    assert_eq!(file.get("answer"), None);

    assert_eq!(instance.answer("deploy", json!("yes")).await?, 2);
    let file = in_file(root.path(), "a", "deploy").ok_or("no file")?;
    assert_eq!(
        (&file["answer"], &file["answer_seq"]),
        (&json!("yes"), &json!(2)),
        "the file is there before the reply"
    );
    assert_eq!(asking.await??, "yes");
    assert_eq!((status(&instance).await?, instance.input_requests().await?.len()), (Status::Running, 0));
    store.shutdown().await?;
    let view = View::open(root.path())?;
    assert_eq!(kinds(&view, "a")?, ["input.requested", "input.answered"]);
    assert_eq!(view.events(&id("a"), 2)?[0].data_as::<Value>()?, json!({"key": "deploy", "asked": 1, "answer": "yes"}));
    assert!(Doctor::examine(root.path())?.findings.is_empty(), "the doctor knows the files");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_came_while_nobody_ran_is_there_when_it_is_asked_again() -> TestResult {
    let fief = Fief::new();
    let store = Store::open(&*fief.root, Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    store.shutdown().await?;
    assert!(matches!(waiting.await?, Err(Error::Closed)), "the end of the store ends the wait");
    assert_eq!(fief.status("a"), "waiting", "nobody is at work on it, and it is not done");

    assert_eq!(fief.ok(["answer", "a", "deploy", r#""yes""#]), "deploy is answered (event 2)\n");
    assert_eq!(fief.status("a"), "waiting");
    assert_eq!(fief.record("a")["status_reason"], "deploy is answered");

    let store = Store::open(&*fief.root, Untyped).await?;
    let instance = store.get(&id("a")).await?;
    for _ in 0..2 {
        assert_eq!(instance.request_input("deploy", "Deploy?", yes_or_no()).await?, "yes");
        assert_eq!(status(&instance).await?, Status::Running);
    }
    store.shutdown().await?;
    assert_eq!(fief.events("a"), ["input.requested", "input.answered"], "it was not asked twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_answers_at_once_exactly_one_counts() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    for round in 0..10 {
        let key = format!("k{round}");
        let waiting = {
            let (asker, key) = (instance.clone(), key.clone());
            tokio::spawn(async move { asker.request_input(&key, "Who?", json!({"type": "integer"})).await })
        };
        eventually("asked", || file_of(root.path(), "a", &key).exists()).await;
        let answers = (0..16).map(|n| {
            let (instance, key) = (instance.clone(), key.clone());
            tokio::spawn(async move { instance.answer(&key, json!(n)).await.map(|_| n) })
        });
        let mut winners = Vec::new();
        for answer in answers.collect::<Vec<_>>() {
            match answer.await? {
                Ok(n) => winners.push(n),
                Err(error) => assert!(error.to_string().contains("answered already"), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(waiting.await??, winners[0]);
        assert_eq!(in_file(root.path(), "a", &key).ok_or("no file")?["answer"], winners[0]);
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn it_waits_until_nobody_waits_any_more() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let (one, same, other) =
        (asking(&instance, "one").await?, asking(&instance, "one").await?, asking(&instance, "two").await?);
    instance.answer("one", json!("no")).await?;
    assert_eq!((one.await??, same.await??), (json!("no"), json!("no")), "both who asked the same have it");
    assert_eq!(status(&instance).await?, Status::Waiting);
    instance.answer("two", json!("yes")).await?;
    assert_eq!(other.await??, "yes");
    assert_eq!(status(&instance).await?, Status::Running);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn when_the_time_is_up_it_goes_on_and_the_question_stays() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let brief = Duration::from_millis(5);
    let outcome = instance.request_input_within("deploy", "Deploy?", yes_or_no(), brief).await;
    assert_eq!(why(outcome), Some(Unanswered::TimedOut));
    assert_eq!((status(&instance).await?, instance.input_requests().await?.len()), (Status::Running, 1));
    instance.answer("deploy", json!("no")).await?;
    let answer = instance.request_input_within("deploy", "Deploy?", yes_or_no(), Duration::ZERO).await?;
    assert_eq!(answer, "no", "also without a wait");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn to_cancel_the_work_ends_the_wait_and_leaves_the_question() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    instance.cancel().await?;
    assert_eq!(why(waiting.await?), Some(Unanswered::Cancelled));
    assert_eq!((status(&instance).await?, instance.input_requests().await?.len()), (Status::Running, 1));
    let events = instance.record().await?.last_event_seq;
    assert_eq!(why(instance.request_input("new", "And now?", json!(true)).await), Some(Unanswered::Cancelled));
    assert_eq!(instance.record().await?.last_event_seq, events, "who is cancelled asks nothing new");
    instance.answer("deploy", json!("yes")).await?;
    assert_eq!(instance.request_input("deploy", "Deploy?", yes_or_no()).await?, "yes");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn a_question_can_be_withdrawn_and_its_key_asked_anew() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    assert!(instance.withdraw_input("deploy").await?);
    assert_eq!(why(waiting.await?), Some(Unanswered::Withdrawn));
    assert!(!file_of(root.path(), "a", "deploy").exists());
    assert!(!instance.withdraw_input("deploy").await?);
    assert!(instance.answer("deploy", json!("yes")).await.is_err());
    assert_eq!(status(&instance).await?, Status::Running);

    let asker = instance.clone();
    let waiting = tokio::spawn(async move { asker.request_input("deploy", "Where to?", json!(true)).await });
    eventually("asked", || file_of(root.path(), "a", "deploy").exists()).await;
    instance.answer("deploy", Value::Null).await?;
    assert_eq!(waiting.await??, Value::Null, "null is an answer");
    assert_eq!(instance.request_input("deploy", "Where to?", json!(true)).await?, Value::Null);
    assert!(instance.withdraw_input("deploy").await?, "an answered one too");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn to_delete_the_instance_ends_the_wait() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    store.delete(&id("a")).await?;
    assert!(matches!(waiting.await?, Err(Error::NotFound { .. })));
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn who_drops_the_wait_takes_nothing_back() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    waiting.abort();
    assert!(waiting.await.is_err_and(|e| e.is_cancelled()));
    assert_eq!((status(&instance).await?, instance.input_requests().await?.len()), (Status::Waiting, 1));
    instance.answer("deploy", json!("no")).await?;
    assert_eq!(instance.request_input("deploy", "Deploy?", yes_or_no()).await?, "no");
    assert_eq!(status(&instance).await?, Status::Running);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn a_status_that_is_not_running_is_left_alone_and_a_life_that_is_over_asks_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    for before in [Status::Pending, Status::Starting, Status::Paused] {
        let name = before.as_str();
        let instance = store.create(NewInstance::with_id(id(name))).await?.instance().clone();
        instance.transition(before, Some("so it is")).await?;
        let waiting = asking(&instance, "deploy").await?;
        assert_eq!(status(&instance).await?, before);
        instance.answer("deploy", json!("no")).await?;
        assert_eq!(waiting.await??, "no");
        let record = instance.record().await?;
        assert_eq!((record.status, record.status_reason.as_deref()), (before, Some("so it is")));
    }
    let instance = running(&store, "over").await?;
    instance.transition(Status::Failed, None).await?;
    let refused = instance.request_input("deploy", "Deploy?", yes_or_no()).await;
    assert!(matches!(refused, Err(Error::Transition { from: Status::Failed, .. })), "{refused:?}");
    assert_eq!(instance.record().await?.last_event_seq, 0);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn a_key_stands_for_one_question() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    for answered in [false, true] {
        if answered {
            instance.answer("deploy", json!("yes")).await?;
        }
        for (prompt, schema) in [("Delete?", yes_or_no()), ("Deploy?", json!(true))] {
            let refused = instance.request_input("deploy", prompt, schema).await.expect_err("another question");
            assert!(refused.to_string().contains("another question"), "{refused}");
        }
    }
    assert_eq!(waiting.await??, "yes");
    assert_eq!(instance.record().await?.last_event_seq, 2);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn files_that_are_missing_or_behind_are_made_again_from_the_events() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let waiting = asking(&instance, "deploy").await?;
    let path = file_of(root.path(), "a", "deploy");
    let asked = std::fs::read(&path)?;
    // The one who asks may be writing it once more.
    while let Err(error) = std::fs::remove_dir_all(path.parent().ok_or("a directory")?) {
        assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(instance.input_requests().await?.len(), 1);
    assert_eq!(std::fs::read(&path)?, asked);
    instance.answer("deploy", json!("yes")).await?;
    assert_eq!(waiting.await??, "yes");
    for wrong in [None, Some(asked), Some(b"{".to_vec())] {
        match wrong {
            Some(bytes) => std::fs::write(&path, bytes)?,
            None => std::fs::remove_file(&path)?,
        }
        assert_eq!(instance.request_input("deploy", "Deploy?", yes_or_no()).await?, "yes");
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn wrong_questions_and_too_many_are_refused_and_change_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let instance = running(&store, "a").await?;
    let long = "x".repeat(129);
    for key in ["", ".", "..", "../up", "a/b", ".hidden", "a\0b", "a\\b", long.as_str()] {
        let refused = instance.request_input(key, "?", json!(true)).await;
        assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{key:?}: {refused:?}");
    }
    let deep = (0..100).fold(json!(true), |inner, _| json!({ "not": inner }));
    let cases = [
        ("", json!(true), "prompt"),
        ("?", json!({"type": "wat"}), "at /type"),
        ("?", json!({"$ref": "http://127.0.0.1:9/x"}), "fetched"),
        ("?", json!({"const": "x".repeat(32 << 10)}), "schema is too large"),
        ("?", deep, "nested"),
    ];
    for (prompt, schema, word) in cases {
        let refused = instance.request_input("k", prompt, schema).await.expect_err(word).to_string();
        assert!(refused.contains(word), "no {word:?} in {refused}");
    }
    assert!(matches!(instance.request_input("k", &"p".repeat(4097), json!(true)).await, Err(Error::TooLarge { .. })));
    assert_eq!(instance.record().await?.revision, 1, "nothing was committed");

    for n in 0..64 {
        let outcome = instance.request_input_within(&format!("k{n}"), "?", json!(true), Duration::ZERO).await;
        assert_eq!(why(outcome), Some(Unanswered::TimedOut));
    }
    let refused = instance.request_input("k64", "?", json!(true)).await;
    assert!(matches!(refused, Err(Error::Overloaded { limit: 64, .. })), "{refused:?}");
    let refused = instance.answer("k0", json!("a".repeat(64 << 10))).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(instance.input_requests().await?.len(), 64);
    Ok(store.shutdown().await?)
}

/// A job that asks.
struct Asker;

impl Instance for Asker {
    const KIND: &'static str = "asker";
    type State = Value;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Value, BoxError> {
        Ok(Value::Null)
    }
}

impl Job for Asker {
    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        // The answer comes between two attempts, however far the first of them came.
        if attempt.number > 1 && !session.input_requests().await?.is_empty() {
            session.answer("deploy", json!("yes")).await?;
        }
        let answer = session.request_input("deploy", "Deploy?", yes_or_no()).await?;
        session.update(move |state| *state = answer).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_job_whose_time_is_up_while_it_waits_is_tried_again_and_gets_the_answer() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Asker).await?;
    let batch =
        Batch::open(&store, id("b"), vec![BatchItem::new(id("j"), Value::Null)], BatchSettings::default()).await?;
    // On a slow disk the time may be up before it has asked, or before it is done.
    let retry = RetryPolicy::attempts(100).with_base(Duration::from_millis(1));
    let runner = Runner::new(store.clone()).retry(retry).timeout(Some(Duration::from_millis(300)));
    let summary = runner.grace(Duration::from_millis(1)).run(&batch, |_| ()).await?;
    assert!(summary.all_succeeded(), "{summary:?}");
    let record = store.get(&id("j")).await?.record().await?;
    assert!(record.attempt > 1 && *record.state == "yes", "{record:?}");
    Ok(store.shutdown().await?)
}

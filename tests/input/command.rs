//! Answers from the command line, also to instances of types that it does not know.

use std::time::Duration;

use fiefdom::{NewInstance, Status, Store, Unanswered, Untyped};
use serde_json::json;

use crate::cli::{self, Fief, Started};
use crate::common::{Counter, TestResult, eventually, id};
use crate::{in_file, running, why, yes_or_no};

#[tokio::test]
async fn the_command_line_shows_what_is_asked_and_refuses_what_does_not_fit() -> TestResult {
    let fief = Fief::new();
    let store = Store::open(&*fief.root, Untyped).await?;
    let instance = running(&store, "a").await?;
    let schema = json!({"type": "object", "properties": {"port": {"type": "integer", "maximum": 65535}}});
    let asked = instance.request_input_within("port of", "Which\nport?", schema, Duration::ZERO).await;
    assert_eq!(why(asked), Some(Unanswered::TimedOut));
    instance.checkpoint(fiefdom::Checkpoint::new("built").message("ready")).await?;
    store.shutdown().await?;
    let shown = fief.ok(["show", "a"]);
    for word in ["asks       port of: Which port?", "\"maximum\":65535", "answer a 'port of' JSON", "built: ready"] {
        assert!(shown.contains(word), "no {word:?} in {shown}");
    }
    assert!(shown.contains(" fiefdom --root '"), "with the root that it was told: {shown}");
    let mut command = cli::bare();
    command.env("FIEFDOM_DATA_DIR", &fief.root).args(["show", "a"]);
    let ran = Started::new(command).end();
    assert!(ran.out.contains(" fiefdom answer a "), "and without one without: {ran:?}");
    assert_eq!(fief.json(["show", "a"])["input_requests"]["port of"]["open"]["prompt"], "Which\nport?");

    let before = fief.record("a");
    fief.run(["answer", "a", "port of", r#"{"port":70000}"#])
        .failed(2, &["at /port", "65535", "/properties/port/maximum"]);
    fief.run(["answer", "a", "prot of", "1"]).failed(2, &["asks nothing under \"prot of\"", "\"port of\""]);
    fief.run(["answer", "a", "port of", "yes"]).failed(2, &["JSON", r#"'"yes"'"#]);
    fief.run(["answer", "b", "port of", "1"]).failed(3, &["\"b\""]);
    assert_eq!(fief.record("a"), before, "nothing is changed");
    let done = fief.json(["answer", "a", "port of", r#"{"port":80}"#]);
    assert_eq!(done, json!({"instance_id": "a", "key": "port of", "seq": 3}));
    fief.run(["answer", "a", "port of", r#"{"port":81}"#]).failed(2, &["answered already (event 3)"]);
    assert!(!fief.ok(["show", "a"]).contains("asks"));
    Ok(())
}

/// The owner waits in this process, as an instance of a type that the command does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_answers_while_the_owner_waits() -> TestResult {
    let fief = Fief::new();
    let store = Store::open(&fief.root, Counter).await?;
    let owner = store.create(NewInstance::with_id(id("a"))).await?.instance().clone();
    owner.transition(Status::Running, None).await?;
    let asker = owner.clone();
    let asking = tokio::spawn(async move { asker.request_input("deploy", "Deploy?", yes_or_no()).await });
    eventually("it asks", || in_file(&fief.root, "a", "deploy").is_some()).await;
    fief.run(["answer", "a", "deploy", "7"]).failed(2, &["answer", "7 is not one of", "yes"]);
    fief.run(["answer", "a", "other", "1"]).failed(2, &["other", "\"deploy\""]);
    assert!(!asking.is_finished());
    let printed = fief.json(["answer", "a", "deploy", "\"yes\""]);
    assert_eq!((&printed["key"], &printed["seq"]), (&json!("deploy"), &json!(2)));
    assert_eq!(asking.await??, "yes");
    assert_eq!(owner.record().await?.status, Status::Running);
    assert_eq!(in_file(&fief.root, "a", "deploy").map(|file| file["answer"].clone()), Some(json!("yes")));
    fief.run(["answer", "a", "deploy", "\"no\""]).failed(2, &["answered already"]);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_instance_of_any_kind_is_answered_without_its_type() -> TestResult {
    let fief = Fief::new();
    let store = Store::open(&*fief.root, Counter).await?;
    let counter = store.create(NewInstance::with_id(id("c"))).await?;
    let asked = counter.request_input_within("n", "How many?", json!({"minimum": -5}), Duration::ZERO).await;
    assert_eq!(why(asked), Some(Unanswered::TimedOut));
    store.shutdown().await?;
    fief.ok(["answer", "c", "n", "-3"]);
    let store = Store::open(&*fief.root, Counter).await?;
    let counter = store.get(&id("c")).await?;
    assert_eq!(counter.request_input("n", "How many?", json!({"minimum": -5})).await?, -3);
    Ok(store.shutdown().await?)
}

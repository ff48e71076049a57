//! Input requests: what is asked is durable before anybody waits, and an answer counts once. Here is
//! what the subjects share.
#![allow(missing_docs)]

mod asking;
#[path = "../common/cli.rs"]
mod cli;
mod command;
#[path = "../common/mod.rs"]
mod common;
mod killed;

use std::path::Path;
use std::time::Duration;

use common::{TestResult, id};
use fiefdom::{Error, InstanceRef, NewInstance, Status, Store, Unanswered, Untyped, View};
use serde_json::{Value, json};

type Instanced = InstanceRef<Untyped>;
type Asking = tokio::task::JoinHandle<fiefdom::Result<Value>>;

fn yes_or_no() -> Value {
    json!({ "enum": ["yes", "no"] })
}

async fn running(store: &Store<Untyped>, name: &str) -> TestResult<Instanced> {
    let instance = store.create(NewInstance::with_id(id(name))).await?.instance().clone();
    instance.transition(Status::Running, None).await?;
    Ok(instance)
}

/// Asks in a task of its own, and returns when the question is there.
async fn asking(instance: &Instanced, key: &str) -> TestResult<Asking> {
    let (asker, name) = (instance.clone(), key.to_owned());
    let asking = tokio::spawn(async move { asker.request_input(&name, "Deploy?", yes_or_no()).await });
    while !instance.input_requests().await?.iter().any(|open| open.key == key) {
        assert!(!asking.is_finished(), "{:?}", asking.await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(asking)
}

async fn status(instance: &Instanced) -> TestResult<Status> {
    Ok(instance.record().await?.status)
}

fn file_of(root: &Path, name: &str, key: &str) -> std::path::PathBuf {
    root.join("instances").join(name).join(format!("events/input-requests/{key}.json"))
}

fn in_file(root: &Path, name: &str, key: &str) -> Option<Value> {
    let bytes = std::fs::read(file_of(root, name, key)).ok()?;
    Some(serde_json::from_slice(&bytes).expect("a whole document"))
}

fn kinds(view: &View, name: &str) -> TestResult<Vec<String>> {
    Ok(view.events(&id(name), 1)?.into_iter().map(|event| event.kind).collect())
}

#[allow(clippy::needless_pass_by_value)] // What a call returned goes straight in.
fn why(outcome: fiefdom::Result<Value>) -> Option<Unanswered> {
    match outcome {
        Err(Error::NotAnswered { why, .. }) => Some(why),
        _ => None,
    }
}

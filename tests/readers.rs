//! Who reads the files without a lock, while they are being written.
#![allow(missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Counter, TestResult, id, options};
use fiefdom::{NewInstance, Store};
use serde_json::Value;

const REWRITES: u64 = 10_000;

/// The value in a record, which must be there, whole, and what was written.
fn value_in(path: &Path) -> TestResult<u64> {
    let text = std::fs::read(path)?;
    let record: Value = serde_json::from_slice(&text)?;
    let value = record["state"]["value"].as_u64().ok_or("no value")?;
    assert_eq!(record["revision"].as_u64(), Some(value), "a record of two moments");
    assert_eq!(record["state"]["nested"][0].as_array().map(Vec::len), Some(usize::try_from(value % 100)?));
    Ok(value)
}

/// The reading process of the test below.
#[test]
#[ignore = "started by another test"]
fn be_a_reader() -> TestResult {
    let path = std::env::var("FIEFDOM_TEST_RECORD")?;
    println!("ready");
    let (mut last, mut seen) = (0, 0_u64);
    while last < REWRITES {
        let value = value_in(path.as_ref())?;
        assert!(value >= last, "{value} after {last}");
        seen += u64::from(value > last);
        last = value;
    }
    println!("seen {seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_a_torn_or_missing_record() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, options(|o| o.materialise_within = Duration::ZERO)).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    session.update(|s| (s.value, s.nested) = (1, vec![vec![0; 1]])).await?;
    store.flush().await?;
    let path = root.path().join("instances/a/instance.json");
    let mut reader = Command::new(std::env::current_exe()?)
        .args(["be_a_reader", "--exact", "--ignored", "--nocapture"])
        .env("FIEFDOM_TEST_RECORD", &path)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(reader.stdout.take().ok_or("no output")?).lines();
    while said.next().ok_or("the reader ended")?? != "ready" {}
    for value in 2..=REWRITES {
        let items = usize::try_from(value % 100)?;
        session.update(move |s| (s.value, s.nested) = (value, vec![vec![7; items]])).await?;
        store.flush().await?;
        // Each is a rewrite of its own, and on view as soon as it is flushed.
        assert_eq!(value_in(&path)?, value);
    }
    // To the end: the pipe has to be there for as long as the reader may write to it.
    let said: Vec<String> = said.map_while(Result::ok).collect();
    assert!(reader.wait()?.success(), "the reader found something wrong: {said:?}");
    let seen = said.iter().find_map(|line| Some(line.strip_prefix("seen ")?.parse::<u64>()));
    assert!(seen.ok_or("the reader saw nothing")?? > 10);
    store.shutdown().await?;
    Ok(())
}

//! What a batch is made of: items that are refused, and those that a crash left half-written.

use fiefdom::jobs::{Batch, BatchItem, BatchSettings};
use fiefdom::{Error, NewInstance};
use serde_json::{Value, json};

use crate::common::{TestResult, id};
use crate::{numbers, open};

#[tokio::test]
async fn bad_items_leave_nothing_behind() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    store.create(NewInstance::with_id(id("mine"))).await?;
    let job = |name: &str| BatchItem::new(id(name), Value::Null);
    let mut tagged = job("x");
    tagged.tags.insert("batch".into(), "y".into());
    let cases = [
        (vec![], "no items"),
        (vec![job("a"), job("a")], "two of its jobs have the id \"a\""),
        (vec![job("a"), job("b")], "has the id \"b\" of the batch"),
        (vec![job("a"), tagged], "which names the batch"),
        (vec![job("a"), job("mine")], "instance \"mine\" exists already"),
    ];
    for (items, says) in cases {
        let made = Batch::create_with(&store, id("b"), items, BatchSettings::default()).await;
        let error = made.expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
        assert!(!root.path().join("instances/b").exists(), "{says}");
    }
    let unfit = Batch::create_with(&store, id("b"), [f64::NAN, 1.0].map(Unfit), BatchSettings::default()).await;
    assert!(matches!(unfit, Err(Error::Unserializable { .. })), "{unfit:?}");
    let many = Batch::create_with(&store, id("b"), 0..1_000_001_u32, BatchSettings::default()).await;
    assert!(matches!(many, Err(Error::TooLarge { bytes: 1_000_001, limit: 1_000_000, .. })), "{many:?}");
    assert!(!root.path().join("instances/b").exists());

    let unknown = Batch::<u64>::load(&store, &id("nobody")).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    let batch = Batch::open(&store, id("b"), [1_u64, 2], BatchSettings::default()).await?;
    let jobs = Batch::<BatchItem>::load(&store, &id("b")).await;
    assert!(matches!(&jobs, Err(Error::InvalidInput { reason, .. }) if reason.contains("no jobs")), "{jobs:?}");
    for other in [vec![1_u64], vec![1, 2, 3], vec![2, 1]] {
        let opened = Batch::open(&store, id("b"), other, BatchSettings::default()).await;
        assert!(matches!(&opened, Err(Error::InvalidInput { .. })), "{opened:?}");
    }
    assert_eq!(batch.total(), 2);
    store.shutdown().await?;
    Ok(())
}

/// A number that refuses to be written when it is none.
#[derive(Debug, serde::Deserialize)]
struct Unfit(f64);

impl serde::Serialize for Unfit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_nan() {
            return Err(serde::ser::Error::custom("not a number"));
        }
        serializer.serialize_f64(self.0)
    }
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_completed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    // What a process leaves that dies before its items are all written.
    let cut_short = NewInstance::with_id(id("b")).kind("batch").input(json!({ "settings": {} }));
    store.create(cut_short).await?;
    store.shutdown().await?;
    let store = open(root.path()).await?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(&loaded, Err(Error::InvalidInput { reason, .. }) if reason.contains("cut short")), "{loaded:?}");
    let batch = numbers(&store, 2).await?;
    assert_eq!(batch.next().await?.map(|claim| *claim.item()), Some(0));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn items_that_were_cut_off_are_damage() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = open(root.path()).await?;
    drop(numbers(&store, 100).await?);
    let path = root.path().join("instances/b/workspace/items.jsonl");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, &text[..text.len() - 3])?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
    std::fs::remove_file(&path)?;
    let loaded = Batch::<u64>::load(&store, &id("b")).await;
    assert!(matches!(loaded, Err(Error::Corrupt { .. })), "{loaded:?}");
    store.shutdown().await?;
    Ok(())
}

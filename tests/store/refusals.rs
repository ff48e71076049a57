//! Commits that are refused, and closures and types that misbehave: nothing is changed.

use std::time::Duration;

use fiefdom::{Durability, Error, NewInstance, Record, Status, Store, Untyped};
use serde_json::{Value, json};

use crate::common::{Counter, TestResult, eventually, id, options};

#[tokio::test]
async fn a_closure_that_panics_or_refuses_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let counter = store.create(NewInstance::new()).await?;
    counter.update(|s| s.value = 1).await?;
    let panicked = counter
        .update(|s| {
            s.value = 99;
            panic!("on purpose");
        })
        .await;
    assert!(matches!(&panicked, Err(Error::Panicked { message, .. }) if message == "on purpose"), "{panicked:?}");
    let refused = counter
        .commit(|tx| {
            tx.state_mut().value = 98;
            tx.event("never", &())?;
            Err::<(), _>(Error::rejected("no"))
        })
        .await;
    assert!(matches!(refused, Err(Error::Rejected { .. })));
    let next = counter
        .commit(|tx| {
            tx.state_mut().value += 1;
            Ok(tx.state().value)
        })
        .await?;
    assert_eq!((next.value, next.revision, next.last_event_seq), (2, 2, 0));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_commit_over_a_limit_or_not_json_changes_nothing() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    let big = "x".repeat(3 << 20);
    let too_large = it.update(|s| s["big"] = big.into()).await;
    assert!(matches!(too_large, Err(Error::TooLarge { what: "record", .. })), "{too_large:?}");
    let deep = (0..1000).fold(Value::Null, |inner, _| json!([inner]));
    let too_deep = it.update(move |s| s["deep"] = deep).await;
    assert!(matches!(too_deep, Err(Error::Unserializable { .. })), "{too_deep:?}");
    let event = it.append("big", "x".repeat(300 << 10)).await;
    assert!(matches!(event, Err(Error::TooLarge { what: "event", .. })), "{event:?}");
    let nan = it.append("nan", json!([1]).as_array().map(|_| f64::NAN)).await;
    assert!(matches!(&nan, Err(Error::Unserializable { field, .. }) if field == "data"), "{nan:?}");
    let record = it.record().await?;
    assert_eq!((record.revision, &*record.state), (0, &json!({})));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_tag_that_was_refused_is_not_there_also_when_the_closure_goes_on() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    let refused = it.commit(|tx| Ok((0..70).filter(|nth| tx.tag(&format!("k{nth}"), "v").is_err()).count())).await?;
    let long = it.commit(|tx| Ok(tx.tag("k0", &"x".repeat(300)).is_err())).await?;
    assert_eq!((refused.value, long.value), (6, true));
    let record = it.record().await?;
    assert_eq!((record.tags.len(), record.tags["k0"].as_str()), (64, "v"));
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_state_may_grow_up_to_the_limit_of_a_record_and_no_further() -> TestResult {
    const LIMIT: usize = 4096;
    let root = tempfile::tempdir()?;
    let options = options(|o| (o.record_bytes, o.durability) = (LIMIT, Durability::Os));
    let store = Store::open_with(root.path(), Untyped, options).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let mut largest = 0;
    // Byte by byte over the length at which a record is measured exactly.
    for length in (0..3000).step_by(500).chain(3000..4200) {
        match it.update(move |state| state["text"] = "x".repeat(length).into()).await {
            Ok(()) => largest = length,
            Err(Error::TooLarge { what: "record", bytes, limit }) => {
                assert!(bytes > limit && largest > 3000, "{length}");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let compact = |record: &Record<Value>| serde_json::to_vec(record).map(|bytes| bytes.len());
    let record = it.record().await?;
    let bytes = compact(&record)?;
    assert!(record.state["text"].as_str().is_some_and(|text| text.len() == largest));
    assert!(bytes <= LIMIT && LIMIT - bytes < 8, "{bytes} bytes were the most");
    store.shutdown().await?;
    Ok(())
}

/// A state whose `Serialize` panics, but only in the thread that writes the files.
#[derive(Clone, serde::Deserialize)]
struct Moody {
    panics: bool,
}

impl serde::Serialize for Moody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let here = std::thread::current();
        assert!(!self.panics || here.name() != Some("fiefdom-files"), "on purpose");
        serde_json::json!({ "panics": self.panics }).serialize(serializer)
    }
}

struct MoodyKind;

impl fiefdom::Instance for MoodyKind {
    const KIND: &'static str = "moody";
    type State = Moody;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Moody, fiefdom::BoxError> {
        Ok(Moody { panics: false })
    }
}

#[tokio::test]
async fn a_state_that_panics_when_it_is_written_harms_its_own_instance_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let settings = options(|o| o.materialise_within = Duration::from_millis(2));
    let store = Store::open_with(root.path(), MoodyKind, settings).await?;
    let moody = store.create(NewInstance::with_id(id("moody"))).await?;
    let calm = store.create(NewInstance::with_id(id("calm"))).await?;
    moody.update(|s| s.panics = true).await?;
    while store.stats().await?.file_failures == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Its commits are in the log, and so is its recovery; the others have theirs in their files.
    calm.commit(|tx| tx.set_status(Status::Running, None)).await?;
    let path = calm.path().join("instance.json");
    eventually("the other's file is written", || {
        std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"running\""))
    })
    .await;
    moody.update(|s| s.panics = false).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_room_of_commits_in_the_log_is_given_back_when_they_are_written() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, options(|o| o.queued_bytes = 4096)).await?;
    let it = store.create(NewInstance::new()).await?;
    // Together they have many times the bytes that may wait at once.
    for value in 1..=100 {
        it.update(move |state| state.value = value).await?;
    }
    assert_eq!(it.state().await?.value, 100);
    store.shutdown().await?;
    Ok(())
}

/// Holds a number that JSON may not be able to hold.
struct Gauge;

#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
struct Reading {
    value: f64,
}

impl fiefdom::Instance for Gauge {
    const KIND: &'static str = "gauge";
    type State = Reading;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Reading, fiefdom::BoxError> {
        Ok(Reading::default())
    }
}

#[tokio::test]
async fn a_state_that_json_cannot_hold_is_refused_by_every_commit_of_an_activation() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Gauge).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let store = Store::open(root.path(), Gauge).await?;
    let gauge = store.get(&id("a")).await?;
    // The first commit writes the whole record, the later ones the state alone, unless they change more.
    for value in 1..=3_u32 {
        let refused = gauge.update(|state| state.value = f64::NAN).await;
        assert!(matches!(&refused, Err(Error::Unserializable { field, .. }) if field == "state.value"), "{refused:?}");
        let refused = gauge.commit(|tx| {
            tx.state_mut().value = f64::INFINITY;
            tx.tag("a", "b")
        });
        assert!(matches!(refused.await, Err(Error::Unserializable { .. })));
        gauge.update(move |state| state.value = value.into()).await?;
        let record = gauge.record().await?;
        assert_eq!((record.revision, record.state.value, record.tags.len()), (u64::from(value), f64::from(value), 0));
    }
    store.shutdown().await?;
    Ok(())
}

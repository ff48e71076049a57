//! The files of an instance: what survives, what is damage, what is removed, and when they follow.

use std::time::Duration;

use fiefdom::{Error, NewInstance, Store};

use futures::StreamExt as _;

use crate::common::{Counter, TestResult, copy_tree, eventually, id, options};

#[tokio::test]
async fn unknown_fields_and_mode_bits_survive_a_rewrite() -> TestResult {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let path = root.path().join("instances/a/instance.json");
    let text =
        std::fs::read_to_string(&path)?.replacen("{\n", "{\n  \"later\": {\"n\": 12345678901234567890123},\n", 1);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
    let store = Store::open(root.path(), Counter).await?;
    store.get(&id("a")).await?.update(|s| s.value = 5).await?;
    store.shutdown().await?;
    let text = std::fs::read_to_string(&path)?;
    assert!(text.contains("12345678901234567890123") && text.contains("\"value\": 5"), "{text}");
    assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
    Ok(())
}

#[tokio::test]
async fn a_damaged_record_is_reported_and_kept_and_the_others_work() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    for name in ["good", "bad", "twice"] {
        store.create(NewInstance::with_id(id(name))).await?;
    }
    store.shutdown().await?;
    let path = root.path().join("instances/bad/instance.json");
    std::fs::write(&path, "{\"format\": 1, \"inst")?;
    let twice = root.path().join("instances/twice/instance.json");
    std::fs::write(&twice, std::fs::read_to_string(&twice)?.replacen("\"value\": 0", "\"value\": 0, \"value\": 1", 1))?;
    let store = Store::open(root.path(), Counter).await?;
    let error = store.get(&id("bad")).await.expect_err("damaged");
    assert!(matches!(&error, Error::Corrupt { path: p, .. } if *p == path), "{error}");
    assert!(
        matches!(store.get(&id("twice")).await, Err(Error::Corrupt { reason, .. }) if reason.contains("duplicate"))
    );
    let listing = store.list(fiefdom::Filter::default()).await?;
    assert_eq!((listing.records.len(), listing.damaged.len()), (1, 2));
    store.get(&id("good")).await?.update(|s| s.value = 1).await?;
    assert_eq!(std::fs::read_to_string(&path)?, "{\"format\": 1, \"inst", "the bytes are untouched");
    let kept: Vec<_> = std::fs::read_dir(root.path().join(".fiefdom/quarantine"))?.collect::<Result<_, _>>()?;
    assert_eq!(kept.len(), 4, "two copies, each with its reason: {kept:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let path = root.path().join("instances/a/instance.json");
    let newer = std::fs::read_to_string(&path)?.replacen("\"format\": 1", "\"format\": 2", 1);
    std::fs::write(&path, &newer)?;
    let store = Store::open(root.path(), Counter).await?;
    assert!(matches!(store.get(&id("a")).await, Err(Error::NewerFormat { found: 2, supported: 1, .. })));
    store.shutdown().await?;
    assert_eq!(std::fs::read_to_string(&path)?, newer);
    std::fs::write(root.path().join(".fiefdom/format.json"), "{\"format\": 9}")?;
    assert!(matches!(Store::open(root.path(), Counter).await, Err(Error::NewerFormat { found: 9, .. })));
    Ok(())
}

#[tokio::test]
async fn a_directory_removed_while_live_is_reported_gone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    store.flush().await?;
    std::fs::remove_dir_all(it.path())?;
    it.update(|s| s.value = 1).await?;
    store.flush().await?;
    assert!(matches!(it.update(|s| s.value = 2).await, Err(Error::Gone { .. })));
    assert!(!it.path().exists());
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_removed_directory_does_not_hold_up_the_log() -> TestResult {
    let root = tempfile::tempdir()?;
    // The files are not looked at before the log is emptied.
    let settings = options(|o| (o.log_segment_bytes, o.materialise_within) = (4096, Duration::from_secs(3600)));
    let store = Store::open_with(root.path(), Counter, settings).await?;
    let removed = store.create(NewInstance::with_id(id("a"))).await?;
    let other = store.create(NewInstance::with_id(id("b"))).await?;
    std::fs::remove_dir_all(removed.path())?;
    for n in 0..100 {
        other.update(move |s| s.value = n).await?;
    }
    while store.stats().await?.checkpoints < 3 {
        assert!(!store.stats().await?.checkpoint_stalled);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_files_follow_within_a_moment_without_being_asked() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.update(|s| s.value = 42).await?;
    let path = it.path().join("instance.json");
    eventually("instance.json shows the update", || {
        std::fs::read_to_string(&path).is_ok_and(|t| t.contains("\"value\": 42"))
    })
    .await;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_old_segment_is_replaced_by_files_and_removed() -> TestResult {
    let root = tempfile::tempdir()?;
    let settings = options(|o| o.log_segment_bytes = 4096);
    let store = Store::open_with(root.path(), Counter, settings).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    for n in 0..100 {
        it.commit(move |tx| {
            tx.state_mut().value = n;
            tx.event("n", &n)
        })
        .await?;
    }
    let mut writers = std::fs::read_dir(root.path().join(".fiefdom/writers"))?;
    let writer = writers.next().expect("a writer")?.path();
    eventually("old segments are removed", || std::fs::read_dir(&writer).is_ok_and(|files| files.count() <= 3)).await;
    assert!(store.stats().await?.checkpoints > 5);
    store.shutdown().await?;
    Ok(())
}

/// Holds JSON as its user wrote it.
struct Quotes;

#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
struct Quoted {
    text: Box<serde_json::value::RawValue>,
}

impl fiefdom::Instance for Quotes {
    const KIND: &'static str = "quotes";
    type State = Quoted;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Quoted, fiefdom::BoxError> {
        Ok(Quoted { text: serde_json::from_str("[\n]")? })
    }
}

#[tokio::test]
async fn json_of_several_lines_comes_back_after_a_crash() -> TestResult {
    let lines = "{\n  \"a \\\" \\n b\": [ 1.0e1 , 12345678901234567890123 ]\r\n}";
    let one_line = "{\"a \\\" \\n b\":[1.0e1,12345678901234567890123]}";
    let raw = || serde_json::from_str::<Box<serde_json::value::RawValue>>(lines);
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Quotes).await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    store.shutdown().await?;
    let path = root.path().join("instances/a/instance.json");
    let later = format!("{{\n  \"later\": {lines},\n");
    std::fs::write(&path, std::fs::read_to_string(&path)?.replacen("{\n", &later, 1))?;

    let store =
        Store::open_with(root.path(), Quotes, options(|o| o.materialise_within = Duration::from_secs(3600))).await?;
    let it = store.get(&id("a")).await?;
    let text = raw()?;
    it.update(move |state| state.text = text).await?;
    it.transition(fiefdom::Status::Running, None).await?;
    assert_eq!(it.append("said", raw()?).await?, 1);
    let crashed = tempfile::tempdir()?;
    copy_tree(root.path(), crashed.path())?;

    let store = Store::open(crashed.path(), Quotes).await?;
    let it = store.get(&id("a")).await?;
    assert_eq!(it.state().await?.text.get(), one_line);
    let event = it.events(1).next().await.ok_or("an event")??;
    assert_eq!(event.data.get(), one_line);
    store.shutdown().await?;
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(crashed.path().join("instances/a/instance.json"))?)?;
    assert_eq!(record["later"], serde_json::from_str::<serde_json::Value>(lines)?);
    Ok(())
}

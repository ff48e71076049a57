//! The index of the alarms: what is read of it, and what is tidied up.

use std::io::Write as _;
use std::process::Command;

use chrono::{TimeDelta, Utc};
use fiefdom::{NewInstance, Store};

use crate::common::{self, Counter, TestResult, eventually, id};
use crate::strace;
use crate::{next, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_wait_no_instance_is_opened_before_its_time() -> TestResult {
    const MANY: i64 = 20_000;
    if strace::is_missing()? {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("due"))).await?;
    it.set_alarm(soon(), ()).await?;
    store.shutdown().await?;
    drop(store);
    // What so many commits would leave, over months; a hundred of them within the hour.
    let kind = root.path().join(".fiefdom/alarms/counter");
    for nth in 0..MANY {
        let at = Utc::now() + TimeDelta::seconds(600 + if nth < 100 { 0 } else { nth * 400 });
        let hour = kind.join(at.format("%Y%m%dT%H").to_string());
        std::fs::create_dir_all(&hour)?;
        let name = format!("{:015}.{}.1.waits-{nth}", at.timestamp_millis(), uuid::Uuid::new_v4().simple());
        std::fs::File::create(hour.join(name))?;
    }
    let output = tempfile::NamedTempFile::new()?;
    let status = Command::new("strace")
        .args(["-f", "-o"])
        .arg(output.path())
        .args(["-e", "trace=openat,getdents64"])
        .arg(std::env::current_exe()?)
        .args(["index::take_one_alarm", "--exact", "--ignored", "--test-threads=1"])
        .env("FIEFDOM_TEST_ROOT", root.path())
        .status()?;
    assert!(status.success());
    let traced = std::fs::read_to_string(output.path())?;
    let opened = |what: &str| traced.lines().filter(|line| line.contains("openat(") && line.contains(what)).count();
    assert!(opened("\"due\"") > 0, "nothing was traced");
    assert_eq!(opened("\"waits"), 0, "an instance that is not due was opened");
    let hours = opened(", \"20");
    common::shown!("{MANY} alarms wait: {hours} directories of the index opened to find the one that is due");
    assert!(hours < 20, "{hours} hours were read");
    Ok(())
}

/// Takes the alarm that is due.
#[tokio::test]
#[ignore = "started by another test"]
async fn take_one_alarm() -> TestResult {
    let store = Store::open(std::env::var("FIEFDOM_TEST_ROOT")?, Counter).await?;
    let due = next(&mut store.alarms()).await?;
    assert_eq!(due.id(), &id("due"));
    due.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn what_a_shutdown_leaves_of_hours_that_have_passed_is_tidied_up() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let hour = root.path().join(".fiefdom/alarms/counter/20200101T00");
    std::fs::create_dir_all(&hour)?;
    let mut alarms = store.alarms();
    let waiting = tokio::spawn(async move { alarms.next().await.is_none() });
    eventually("the empty hour is removed", || !hour.exists()).await;
    store.shutdown().await?;
    waiting.abort();
    let _ = std::io::stdout().flush();
    Ok(())
}

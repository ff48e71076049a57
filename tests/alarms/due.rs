//! Which alarm comes when, and to whom.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use fiefdom::{Error, ImportOptions, NewInstance, Store, Untyped, View};

use crate::common::{Counter, PATIENCE, TestResult, eventually, id};
use crate::{NOTHING, entries, later, next, none, soon};

#[tokio::test]
async fn an_alarm_comes_when_it_is_due_and_not_before_and_once_when_it_is_done() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let mut alarms = store.alarms();
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let at = soon();
    it.set_alarm(at, vec![1, 2, 3]).await?;
    let due = next(&mut alarms).await?;
    assert!(Utc::now() >= at);
    assert_eq!((due.id(), due.payload::<Vec<u32>>()?), (&id("a"), vec![1, 2, 3]));
    assert!(due.at() >= at && due.at() - at < TimeDelta::milliseconds(1));
    due.done().await?;
    assert!(it.record().await?.alarm.is_none());
    assert!(none(&mut alarms.redeliver_after(Duration::ZERO)).await);
    store.shutdown().await?;
    assert_eq!(entries(root.path()), NOTHING);
    Ok(())
}

#[tokio::test]
async fn the_alarms_end_with_their_store_also_when_none_is_due() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(later(), "hello").await?;
    let mut alarms = store.alarms();
    let waiting = tokio::spawn(async move { alarms.next().await.is_none() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.shutdown().await?;
    assert!(tokio::time::timeout(PATIENCE, waiting).await??, "it is the end");
    assert!(tokio::time::timeout(PATIENCE, store.alarms().next()).await?.is_none(), "and stays it");
    Ok(())
}

#[tokio::test]
async fn alarms_come_in_the_order_in_which_they_are_due() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let at = Utc::now() + TimeDelta::milliseconds(150);
    for nth in [3, 1, 2, 0] {
        let it = store.create(NewInstance::with_id(id(&format!("i{nth}")))).await?;
        it.set_alarm(at + TimeDelta::milliseconds(nth), nth).await?;
    }
    store.flush().await?;
    let mut alarms = store.alarms();
    for nth in 0..4 {
        let due = next(&mut alarms).await?;
        assert_eq!(due.payload::<i64>()?, nth);
        due.done().await?;
    }
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_came_due_while_nothing_ran_comes_at_the_next_open() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let at = soon();
    it.set_alarm(at, "hello").await?;
    store.shutdown().await?;
    drop(store);
    eventually("it is due", || Utc::now() > at).await;
    let store = Store::open(root.path(), Counter).await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<String>()?, "hello");
    due.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_is_replaced_comes_at_its_new_time_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(later(), "first").await?;
    store.flush().await?;
    it.set_alarm(soon(), "second").await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<String>()?, "second");
    due.done().await?;
    store.flush().await?;
    assert_eq!(entries(root.path()), NOTHING);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_is_taken_back_does_not_come() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(soon(), ()).await?;
    store.flush().await?;
    assert!(it.clear_alarm().await?);
    assert!(!it.clear_alarm().await?);
    assert!(none(&mut store.alarms()).await);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_alarm_of_a_deleted_instance_does_not_come_nor_to_its_successor() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    store.flush().await?;
    let left: Vec<_> = entries(root.path());
    assert_eq!(left.len(), 1);
    store.delete(&id("a")).await?;
    assert_eq!(entries(root.path()), NOTHING);
    store.create(NewInstance::with_id(id("a"))).await?;
    // As a death in the middle of a deletion would leave it.
    let hour = std::fs::read_dir(root.path().join(".fiefdom/alarms/counter"))?.next().ok_or("no hour")??;
    std::fs::write(hour.path().join(&left[0]), "")?;
    assert!(none(&mut store.alarms()).await);
    assert_eq!(entries(root.path()), NOTHING, "whoever comes to it tidies up");
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_in_the_past_comes_at_once_also_in_an_instance_that_was_imported() -> TestResult {
    let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let store = Store::open(from.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(Utc::now() - TimeDelta::days(30), "overdue").await?;
    let due = store.alarms().next().await.ok_or("closed")??;
    assert_eq!((due.id(), due.payload::<String>()?), (&id("a"), "overdue".to_owned()));
    drop(due);
    let (archive, _) = store.export(&id("a"), Vec::new()).await?;
    store.shutdown().await?;

    let other = Store::open(to.path(), Counter).await?;
    other.import(std::io::Cursor::new(archive), ImportOptions::default()).await?;
    // Nobody has used it since: it is found by the index alone.
    let due = other.alarms().next().await.ok_or("closed")??;
    assert_eq!(due.payload::<String>()?, "overdue");
    due.done().await?;
    Ok(other.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_and_the_rest_of_its_commit_are_set_together_or_not_at_all() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    let refused = it
        .commit(|tx| {
            tx.set_alarm(later(), "no")?;
            Err::<(), _>(Error::rejected("no"))
        })
        .await;
    assert!(refused.is_err() && it.record().await?.alarm.is_none());
    let never = it.set_alarm(chrono::DateTime::<Utc>::MAX_UTC, ()).await.expect_err("no such time");
    assert!(matches!(&never, Error::InvalidInput { what: "alarm", .. }), "{never}");
    assert!(matches!(it.set_alarm(later(), f64::NAN).await, Err(Error::Unserializable { .. })));
    assert!(matches!(it.set_alarm(later(), "x".repeat(65_536)).await, Err(Error::TooLarge { limit: 65_536, .. })));
    assert_eq!(it.record().await?.revision, 0, "nothing was changed");
    let committed = it
        .commit(|tx| {
            tx.state_mut().value = 7;
            tx.set_alarm(later(), "first")?;
            tx.set_alarm(later(), "second")
        })
        .await?;
    let record = it.record().await?;
    let alarm = record.alarm.as_ref().ok_or("no alarm")?;
    assert_eq!((alarm.revision, alarm.payload_as::<String>()?), (committed.revision, "second".into()));
    store.shutdown().await?;
    assert_eq!(entries(root.path()).len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_alarm_that_is_dropped_comes_again_and_is_nobody_else_s_before() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    let mut alarms = store.alarms().redeliver_after(Duration::from_millis(1));
    let due = next(&mut alarms).await?;
    assert!(none(&mut alarms).await && none(&mut store.alarms()).await, "it is in hand");
    drop(due);
    next(&mut alarms).await?.done().await?;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_alarm_that_its_handler_sets_is_not_taken_for_the_one_that_is_done() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    it.set_alarm(soon(), 1).await?;
    let mut alarms = store.alarms();
    let due = next(&mut alarms).await?;
    due.instance().set_alarm(soon(), 2).await?;
    due.done().await?;
    let due = next(&mut alarms).await?;
    assert_eq!(due.payload::<u32>()?, 2);
    // The work and the end of the alarm in one commit.
    due.instance()
        .commit(|tx| {
            tx.state_mut().value += 1;
            tx.clear_alarm();
            Ok(())
        })
        .await?;
    drop(due);
    assert!(none(&mut store.alarms().redeliver_after(Duration::ZERO)).await);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn alarms_of_another_kind_are_left_alone() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    for kind in ["note", "a/b", "größe"] {
        let it = store.create(NewInstance::new().kind(kind)).await?;
        it.set_alarm(soon(), kind).await?;
    }
    let counters = store.of_kind(Counter).await?;
    counters.create(NewInstance::with_id(id("c"))).await?.set_alarm(soon(), "counter").await?;
    let mut alarms = counters.alarms();
    next(&mut alarms).await?.done().await?;
    assert!(none(&mut alarms).await);
    let mut rest = BTreeSet::new();
    let mut alarms = store.alarms();
    for _ in 0..3 {
        let due = next(&mut alarms).await?;
        rest.insert(due.payload::<String>()?);
        due.done().await?;
    }
    assert_eq!(rest, BTreeSet::from(["a/b".into(), "größe".into(), "note".into()]));
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_alarms_that_wait_are_listed_without_a_lock() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    for (name, days) in [("late", 500), ("early", 100), ("middle", 300)] {
        let it = store.create(NewInstance::with_id(id(name))).await?;
        it.set_alarm(Utc::now() + TimeDelta::days(days), days).await?;
    }
    store.flush().await?;
    let view = View::open(root.path())?;
    let listed: Vec<_> = view.alarms(2)?.into_iter().map(|(id, alarm)| (id, alarm.payload.to_string())).collect();
    assert_eq!(listed, [(id("early"), "100".to_owned()), (id("middle"), "300".to_owned())]);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn an_instance_that_was_put_in_its_place_by_hand_has_its_alarm_when_it_is_used() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    store.create(NewInstance::with_id(id("a"))).await?.set_alarm(soon(), ()).await?;
    store.shutdown().await?;
    std::fs::remove_dir_all(root.path().join(".fiefdom/alarms"))?;
    let store = Store::open(root.path(), Counter).await?;
    store.get(&id("a")).await?;
    next(&mut store.alarms()).await?.done().await?;
    Ok(store.shutdown().await?)
}

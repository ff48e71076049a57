//! The events of an instance: in order, whole, and seen by any number of followers.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::{Counter, TestResult, eventually, id, options};
use fiefdom::{Event, InstanceRef, NewInstance, Options, Store, View};
use futures::{Stream, StreamExt as _};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

async fn store(root: &tempfile::TempDir, change: impl FnOnce(&mut Options)) -> TestResult<Store<Counter>> {
    Ok(Store::open_with(root.path(), Counter, options(change)).await?)
}

async fn appended(instance: &InstanceRef<Counter>, numbers: std::ops::RangeInclusive<u64>) -> TestResult {
    for n in numbers {
        assert_eq!(instance.append("n", n).await?, n);
    }
    Ok(())
}

/// Takes `last - first + 1` events, and checks that they are those, in order, with what was appended.
async fn take(stream: &mut (impl Stream<Item = fiefdom::Result<Event>> + Unpin), first: u64, last: u64) -> TestResult {
    for n in first..=last {
        let event = tokio::time::timeout(DEADLINE, stream.next()).await?.ok_or("the stream ended")??;
        assert_eq!((event.seq, event.data_as::<u64>()?), (n, n));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_joins_while_events_arrive_sees_each_once() -> TestResult {
    const EVENTS: u64 = 3_000;
    let root = tempfile::tempdir()?;
    let store = store(&root, |_| ()).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let writer = tokio::spawn({
        let session = session.clone();
        async move { appended(&session, 1..=EVENTS).await }
    });
    // They join all along the way, so that the seam between history and live is at many places.
    let mut followers = Vec::new();
    for nth in 0..60 {
        let reached = nth * EVENTS / 60;
        while session.record().await?.last_event_seq < reached {
            tokio::task::yield_now().await;
        }
        let from = (reached / 2).max(1);
        let mut stream = session.events(from);
        followers.push(tokio::spawn(async move { take(&mut stream, from, EVENTS).await }));
    }
    writer.await??;
    for follower in followers {
        follower.await??;
    }
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stalls_slows_nobody_and_misses_nothing() -> TestResult {
    // Far more than what is kept in memory for followers.
    const EVENTS: u64 = 6_000;
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.event_segment_bytes = 64 << 10).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let mut stalled = session.events(1);
    appended(&session, 1..=10).await?;
    take(&mut stalled, 1, 5).await?;
    let mut lively = session.events(1);
    // Many at a time, each alone would take a flush.
    let mut appends = futures::stream::iter(11..=EVENTS).map(|n| session.append("n", n)).buffered(128);
    while let Some(seq) = appends.next().await {
        seq?;
    }
    take(&mut lively, 1, EVENTS).await?;
    take(&mut stalled, 6, EVENTS).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn events_are_in_files_of_bounded_size_and_read_across_them() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.event_segment_bytes = 2_000).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    for n in 1..=200 {
        session.append("n", n).await?;
        if n % 5 == 0 {
            store.flush().await?;
        }
    }
    take(&mut session.events(1), 1, 200).await?;
    take(&mut session.events(117), 117, 200).await?;
    store.shutdown().await?;

    let files: Vec<_> = std::fs::read_dir(root.path().join("instances/a/events"))?.collect::<Result<_, _>>()?;
    let segments = files.iter().filter(|f| f.file_name().to_string_lossy().ends_with(".jsonl"));
    let sizes: Vec<u64> = segments.map(|f| f.metadata().map(|m| m.len())).collect::<Result<_, _>>()?;
    assert!(sizes.len() > 5 && sizes.iter().all(|&size| size < 3_000), "{sizes:?}");
    let view = View::open(root.path())?;
    let mut read = Vec::new();
    while let Some(some) = Some(view.events(&id("a"), 117 + read.len() as u64)?).filter(|some| !some.is_empty()) {
        read.extend(some.into_iter().map(|event| event.seq));
    }
    assert!(read.into_iter().eq(117..=200));
    Ok(())
}

#[tokio::test]
async fn a_follower_outlives_the_activation_that_it_began_in() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.idle_after = Duration::from_millis(20)).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let mut stream = session.events(1);
    for round in 0..5 {
        let (first, last) = (round * 10 + 1, round * 10 + 10);
        appended(&session, first..=last).await?;
        take(&mut stream, first, last).await?;
        while store.stats().await?.live_instances > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let epoch = session.record().await?.epoch;
    assert!(epoch >= 5, "each round was an activation of its own, or more: {epoch}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn the_events_of_another_owner_are_followed_too() -> TestResult {
    let root = tempfile::tempdir()?;
    let owner = store(&root, |_| ()).await?;
    let session = owner.create(NewInstance::with_id(id("a"))).await?;
    appended(&session, 1..=10).await?;
    // A reader in another process has a view, or a store of its own that does not own the instance.
    let mut seen = View::open(root.path())?.follow(&id("a"), 4)?;
    take(&mut seen, 4, 10).await?;
    appended(&session, 11..=20).await?;
    take(&mut seen, 11, 20).await?;
    assert_eq!(owner.stats().await?.live_instances, 1, "following wakes nothing");
    owner.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn where_the_log_stands_is_a_cache_of_the_log() -> TestResult {
    let root = tempfile::tempdir()?;
    let cache = root.path().join("instances/a/events/state.json");
    for round in 0..4_u64 {
        let store = store(&root, |o| o.event_segment_bytes = 1_000).await?;
        let session = match round {
            0 => store.create(NewInstance::with_id(id("a"))).await?.instance().clone(),
            _ => store.get(&id("a")).await?,
        };
        appended(&session, round * 25 + 1..=round * 25 + 25).await?;
        take(&mut session.events(1), 1, round * 25 + 25).await?;
        store.shutdown().await?;
        match round {
            0 => std::fs::remove_file(&cache)?,
            1 => std::fs::write(&cache, "")?,
            _ => std::fs::write(&cache, "{\"last_seq\":\"no number\"}")?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_event_log_is_an_error_that_names_the_place() -> TestResult {
    let root = tempfile::tempdir()?;
    let first = store(&root, |_| ()).await?;
    let session = first.create(NewInstance::with_id(id("a"))).await?;
    appended(&session, 1..=20).await?;
    first.shutdown().await?;
    let path = root.path().join("instances/a/events/events.jsonl");
    let mut text = std::fs::read(&path)?;
    let middle = text.len() / 2;
    text[middle] = 0;
    std::fs::write(&path, &text)?;

    let second = store(&root, |_| ()).await?;
    let session = second.get(&id("a")).await?;
    let mut stream = session.events(1);
    let mut read = 0;
    let error = loop {
        match tokio::time::timeout(DEADLINE, stream.next()).await? {
            Some(Ok(_)) => read += 1,
            Some(Err(error)) => break error,
            None => return Err("the stream ended without a word".into()),
        }
    };
    assert!(read < 20);
    assert!(matches!(&error, fiefdom::Error::Corrupt { path: named, .. } if *named == path), "{error}");
    assert!(stream.next().await.is_none(), "nothing comes behind damage");
    assert_eq!(std::fs::read(&path)?, text, "its bytes are kept");
    second.shutdown().await?;
    Ok(())
}

/// One long file of events, of which some are longer than all the others together. All are in one commit.
async fn long_log(root: &tempfile::TempDir) -> TestResult<u64> {
    const EVENTS: u64 = 2_000;
    let store = store(root, |_| ()).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    session
        .commit(|tx| {
            (1..=EVENTS).try_for_each(|n| {
                let padding = if n % 700 == 0 { 200_000 } else { n % 50 };
                tx.event("n", &"x".repeat(usize::try_from(padding).unwrap_or(0))).map(drop)
            })
        })
        .await?;
    store.shutdown().await?;
    Ok(EVENTS)
}

#[tokio::test]
async fn events_are_found_from_any_number_on_in_a_long_file() -> TestResult {
    let root = tempfile::tempdir()?;
    let events = long_log(&root).await?;
    let view = View::open(root.path())?;
    // Some from everywhere, and those beside the long ones.
    for from in (1..=events).filter(|n| n % 97 == 0 || n % 700 < 2 || n % 700 == 699) {
        let read = view.events(&id("a"), from)?;
        assert!(!read.is_empty() && read.iter().map(|event| event.seq).eq(from..from + read.len() as u64), "{from}");
    }
    assert!(view.events(&id("a"), events + 1)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn to_read_the_last_events_those_long_before_are_not_read() -> TestResult {
    let root = tempfile::tempdir()?;
    let events = long_log(&root).await?;
    let path = root.path().join("instances/a/events/events.jsonl");
    let mut text = std::fs::read(&path)?;
    let begins = text.iter().position(|byte| *byte == b'\n').ok_or("a log of one line")? + 1;
    text[begins] = 0;
    std::fs::write(&path, &text)?;

    let view = View::open(root.path())?;
    let last = view.events(&id("a"), events - 9)?;
    assert!(last.iter().map(|event| event.seq).eq(events - 9..=events));
    let mut from = 1;
    let error = loop {
        match view.events(&id("a"), from) {
            Ok(read) => from = read.last().ok_or("damage that nobody meets")?.seq + 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, fiefdom::Error::Corrupt { .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn following_an_instance_that_is_not_there_yet_waits_for_it() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |_| ()).await?;
    let view = View::open(root.path())?;
    let mut early = view.follow(&id("later"), 1)?;
    let session = store.create(NewInstance::with_id(id("later"))).await?;
    appended(&session, 1..=3).await?;
    take(&mut early, 1, 3).await?;
    eventually("its record is there", || view.record(&id("later")).is_ok()).await;
    store.shutdown().await?;
    Ok(())
}

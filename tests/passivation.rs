//! Coming to life and going to rest, under load: nothing is lost, nothing is done twice, and no
//! more instances are live than may be.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Counter, PATIENCE, TestResult, id, options};
use fiefdom::{Error, NewInstance, Options, Store};
use futures::{StreamExt as _, TryStreamExt as _, stream};

async fn store(root: &tempfile::TempDir, change: impl FnOnce(&mut Options)) -> TestResult<Store<Counter>> {
    Ok(Store::open_with(root.path(), Counter, options(change)).await?)
}

async fn live(store: &Store<Counter>, wanted: usize) -> TestResult {
    tokio::time::timeout(PATIENCE, async {
        while store.stats().await?.live_instances != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
    .await?
}

/// Ten thousand instances, of which a hundred may be live, are each changed twice, in an
/// order that has every change find its instance at rest, or just on its way there.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_instances_pass_through_a_hundred_places() -> TestResult {
    const INSTANCES: usize = 10_000;
    const PLACES: usize = 100;
    const ROUNDS: usize = 2;
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.live_instances = PLACES).await?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn({
        let (store, over) = (store.clone(), Arc::clone(&over));
        async move {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(store.stats().await?.live_instances);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, Error>(most)
        }
    });

    let instances: Vec<_> =
        stream::iter(0..INSTANCES)
            .map(|n| {
                let store = store.clone();
                async move {
                    Ok::<_, Error>(store.create(NewInstance::with_id(id(&format!("i{n}")))).await?.instance().clone())
                }
            })
            .buffered(200)
            .try_collect()
            .await?;
    // 7 919 is prime to 10 000: every instance once a round, and near ones far apart in time. The
    // rounds overlap, so that an instance is called while it is on its way out.
    stream::iter((0..ROUNDS * INSTANCES).map(|n| &instances[n * 7_919 % INSTANCES]))
        .map(|instance| async move {
            instance
                .commit(|tx| {
                    tx.state_mut().value += 1;
                    let value = tx.state().value;
                    tx.event("counted", &value)
                })
                .await
        })
        .buffer_unordered(200)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    // And every one of a hot few from many sides while the others push it out.
    stream::iter(0..2_000)
        .map(|n| {
            let instance = &instances[if n % 2 == 0 { n % 20 } else { n * 31 % INSTANCES }];
            async move { instance.read(|state| state.value).await }
        })
        .buffer_unordered(200)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    over.store(true, Ordering::Relaxed);
    let most = watch.await??;
    assert!((PLACES / 2..=PLACES).contains(&most), "{most} were live at once");
    store.shutdown().await?;

    // Each change was made once: from the files alone.
    for n in 0..INSTANCES {
        let dir = root.path().join(format!("instances/i{n}"));
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("instance.json"))?)?;
        let counted =
            (record["state"]["value"].as_u64(), record["revision"].as_u64(), record["last_event_seq"].as_u64());
        assert_eq!(counted, (Some(2), Some(2), Some(2)), "i{n}");
        let events = std::fs::read_to_string(dir.join("events/events.jsonl"))?;
        let values: Vec<u64> = events
            .lines()
            .map(|line| Ok(serde_json::from_str::<fiefdom::Event>(line)?.data_as()?))
            .collect::<TestResult<_>>()?;
        assert_eq!(values, [1, 2], "i{n}");
    }
    Ok(())
}

#[tokio::test]
async fn an_instance_that_nobody_uses_goes_to_rest_and_comes_back() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.idle_after = Duration::from_millis(30)).await?;
    let session = store.create(NewInstance::with_id(id("a"))).await?;
    let awake = session.keep_awake().await?;
    session.update(|s| s.value = 5).await?;
    let before = session.record().await?.epoch;
    drop(awake);
    live(&store, 0).await?;
    let text = std::fs::read_to_string(root.path().join("instances/a/instance.json"))?;
    assert!(text.contains("\"value\": 5"), "its files are complete when it is at rest");
    let _awake = session.keep_awake().await?;
    assert_eq!(session.update(|s| s.value).await?, 5, "the old handle finds it again");
    assert_eq!(session.record().await?.epoch, before + 1);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn an_instance_at_rest_is_free_for_another_process() -> TestResult {
    let root = tempfile::tempdir()?;
    let first = store(&root, |o| o.idle_after = Duration::from_millis(30)).await?;
    let second = store(&root, |_| ()).await?;
    let here = first.create(NewInstance::with_id(id("a"))).await?;
    let awake = here.keep_awake().await?;
    assert!(matches!(second.get(&id("a")).await, Err(Error::Locked { .. })));
    drop(awake);
    live(&first, 0).await?;
    let there = second.get(&id("a")).await?;
    there.update(|s| s.value = 1).await?;
    assert!(matches!(here.update(|s| s.value = 2).await, Err(Error::Locked { .. })));
    second.shutdown().await?;
    here.update(|s| s.value += 1).await?;
    assert_eq!((here.state().await?.value, here.record().await?.revision), (2, 2));
    first.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn one_that_is_kept_awake_stays_and_those_who_wait_for_its_place_are_told() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| {
        o.live_instances = 1;
        o.idle_after = Duration::from_millis(20);
        o.activation_wait = Duration::from_millis(200);
    })
    .await?;
    let a = store.create(NewInstance::with_id(id("a"))).await?;
    let awake = a.keep_awake().await?;
    assert!(matches!(store.create(NewInstance::with_id(id("b"))).await, Err(Error::Overloaded { .. })));
    assert!(!root.path().join("instances/b").exists(), "nothing half-made stays");
    assert_eq!(store.stats().await?.live_instances, 1);
    drop(awake);
    // It may have to wait longer for the disk than this store has patience.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.create(NewInstance::with_id(id("b"))).await {
        assert!(matches!(error, Error::Overloaded { .. }) && Instant::now() < deadline, "{error}");
    }
    live(&store, 0).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn too_many_at_once_are_refused_and_the_others_served() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |o| o.queued_per_instance = 10).await?;
    let a = store.create(NewInstance::with_id(id("a"))).await?;
    let all = futures::future::join_all((0..500).map(|_| a.update(|s| s.value += 1))).await;
    let done = all.iter().filter(|r| r.is_ok()).count() as u64;
    let refused = all.iter().filter(|r| matches!(r, Err(Error::Overloaded { .. }))).count() as u64;
    assert!(done >= 10 && refused > 0 && done + refused == 500, "{done} done, {refused} refused");
    assert_eq!(a.state().await?.value, done, "what was refused was not done");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_finishes_what_was_begun_and_refuses_the_rest() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = store(&root, |_| ()).await?;
    let instances: Vec<_> = stream::iter(0..50).then(|_| store.create(NewInstance::new())).try_collect().await?;
    let writers: Vec<_> = instances
        .iter()
        .map(|instance| {
            let instance = instance.clone();
            tokio::spawn(async move {
                let mut done = 0;
                loop {
                    match instance.update(|s| s.value += 1).await {
                        Ok(()) => done += 1,
                        Err(Error::Closed) => return Ok(done),
                        Err(error) => return Err(error),
                    }
                }
            })
        })
        .collect();
    while store.stats().await?.commits < 1_000 {
        tokio::task::yield_now().await;
    }
    store.shutdown().await?;
    for (instance, writer) in instances.iter().zip(writers) {
        let done: u64 = writer.await??;
        let text = std::fs::read_to_string(instance.path().join("instance.json"))?;
        let record: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(record["state"]["value"].as_u64(), Some(done));
    }
    Ok(())
}

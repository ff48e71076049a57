//! The change feed: every durable commit of this process, in order, bounded, and honest about what
//! it had to drop.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{Counter, TestResult, id, options};
use fiefdom::{Change, Filter, InstanceId, Lagged, NewInstance, Options, Status, Store, Untyped};
use futures::{Stream, StreamExt as _};
use uuid::Uuid;

type Item = Result<Change, Lagged>;

/// What is in the feed already; it does not wait.
fn taken(changes: &mut (impl Stream<Item = Item> + Unpin)) -> Vec<Item> {
    let mut all = Vec::new();
    while let Some(Some(item)) = futures::FutureExt::now_or_never(changes.next()) {
        all.push(item);
    }
    all
}

/// So few are kept.
fn short() -> Options {
    options(|o| o.changes_kept = 16)
}

#[tokio::test]
async fn a_caller_that_has_its_reply_finds_its_commit_in_the_feed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let mut changes = store.changes();
    let mut all: Vec<Change> = Vec::new();
    let mut look = |commits| {
        all.extend(taken(&mut changes).into_iter().flatten());
        assert_eq!(all.len(), commits, "the caller has its reply");
    };
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    look(1);
    it.transition(Status::Running, None).await?;
    look(2);
    it.append("seen", 1).await?;
    look(3);
    store.delete(&id("a")).await?;
    look(4);
    let told: Vec<_> = all.iter().map(|c| (c.revision, c.status, c.last_event_seq, c.created, c.deleted)).collect();
    assert_eq!(
        told,
        [
            (0, Status::Pending, 0, true, false),
            (1, Status::Running, 0, false, false),
            (2, Status::Running, 1, false, false),
            (3, Status::Running, 1, false, true),
        ]
    );
    assert!(all.iter().all(|c| c.id == id("a") && c.kind == "counter" && c.uid == all[0].uid && c.epoch == 1));
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn what_is_told_can_be_read() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?.instance().clone();
    let mut changes = store.changes();
    let reader = it.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..500 {
            it.update(|state| state.value += 1).await?;
        }
        Ok::<_, fiefdom::Error>(())
    });
    for _ in 0..500 {
        let change = changes.next().await.ok_or("the end")??;
        assert!(reader.record().await?.revision >= change.revision);
    }
    writer.await??;
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn instances_of_every_kind_are_in_one_feed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let other = store.of_kind(Untyped).await?;
    let mut changes = store.changes();
    other.create(NewInstance::with_id(id("x")).kind("note")).await?;
    assert_eq!(taken(&mut changes)[0].as_ref().map(|c| c.kind.clone()), Ok("note".into()));
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn a_commit_that_is_refused_is_not_in_the_feed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let it = store.create(NewInstance::new()).await?;
    let mut changes = store.changes();
    it.commit(|_| Err::<(), _>(fiefdom::Error::rejected("no"))).await.expect_err("refused");
    store.create(NewInstance::with_id(it.id().clone())).await.expect_err("it exists");
    it.append("", ()).await.expect_err("an event without a type");
    assert_eq!(taken(&mut changes), []);
    Ok(store.shutdown().await?)
}

#[tokio::test]
async fn the_feed_ends_with_the_store() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Counter).await?;
    let mut changes = store.changes();
    store.create(NewInstance::new()).await?;
    store.shutdown().await?;
    assert_eq!(changes.by_ref().count().await, 1, "what was committed is told before the end");
    assert_eq!(store.changes().count().await, 0);
    Ok(())
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_how_much_it_missed() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, short()).await?;
    let it = store.create(NewInstance::new()).await?;
    let (mut slow, mut quick) = (store.changes(), store.changes());
    for nth in 1..=100 {
        it.update(|state| state.value += 1).await?;
        assert_eq!(quick.next().await.ok_or("the end")?.map(|c| c.revision), Ok(nth), "nobody is slowed");
    }
    let all = taken(&mut slow);
    assert!(matches!(all[0], Err(Lagged { missed: 84, .. })), "{:?}", all[0]);
    let kept: Vec<u64> = all[1..].iter().map(|c| c.as_ref().map_or(0, |c| c.revision)).collect();
    assert_eq!(kept, (85..=100).collect::<Vec<_>>());
    Ok(store.shutdown().await?)
}

/// What a program knows that keeps itself up to date by the feed.
#[derive(Default)]
struct Cache {
    known: HashMap<InstanceId, (Uuid, u64, Status)>,
    listings: u32,
}

impl Cache {
    async fn list(&mut self, store: &Store<Counter>) -> TestResult {
        self.listings += 1;
        let records = store.list(Filter::default()).await?.records;
        self.known = records.into_iter().map(|r| (r.id, (r.uid, r.revision, r.status))).collect();
        Ok(())
    }

    fn take(&mut self, change: Change) {
        let now = (change.uid, change.revision, change.status);
        if change.deleted {
            if self.known.get(&change.id).is_some_and(|known| known.0 == now.0) {
                self.known.remove(&change.id);
            }
            return;
        }
        let known = self.known.entry(change.id).or_insert(now);
        if known.0 == now.0 && known.1 < now.1 || known.0 != now.0 && change.created {
            *known = now;
        }
    }
}

/// Instances come, change and go, and come again under the same id.
async fn churn(store: Store<Counter>, lane: u64) -> Result<(), fiefdom::Error> {
    for round in 0..25 {
        for nth in 0..4 {
            let name = id(&format!("i{lane}-{nth}"));
            let it = store.get_or_create(NewInstance::with_id(name.clone())).await?;
            it.update(|state| state.value += 1).await?;
            if (round + nth) % 5 == 0 {
                store.delete(&name).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_lists_again_when_it_lagged_is_right_in_the_end() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open_with(root.path(), Counter, short()).await?;
    let mut changes = store.changes();
    let mut cache = Cache::default();
    cache.list(&store).await?;
    let writers: Vec<_> = (0..8).map(|lane| tokio::spawn(churn(store.clone(), lane))).collect();
    let writing = tokio::spawn(async move {
        for writer in writers {
            writer.await.map_err(fiefdom::Error::rejected)??;
        }
        Ok::<_, fiefdom::Error>(())
    });
    let mut lagged = 0;
    loop {
        match tokio::time::timeout(Duration::from_millis(20), changes.next()).await {
            Ok(Some(Ok(change))) => {
                cache.take(change);
                // A reader that has other work to do.
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            Ok(Some(Err(_))) => {
                lagged += 1;
                cache.list(&store).await?;
            }
            Ok(None) => return Err("the feed ended".into()),
            Err(_) if writing.is_finished() => break,
            Err(_) => {}
        }
    }
    writing.await??;
    taken(&mut changes).into_iter().flatten().for_each(|change| cache.take(change));
    let mut truth = Cache::default();
    truth.list(&store).await?;
    assert_eq!(cache.known, truth.known);
    common::shown!("a cache of {} instances, {lagged} times behind", truth.known.len());
    assert!(lagged > 0, "the reader was never behind: the test shows nothing");
    Ok(store.shutdown().await?)
}

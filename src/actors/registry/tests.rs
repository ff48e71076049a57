//! The death of an instance's actor, which nothing outside the crate can bring about.

use crate::{Error, InstanceRef, NewInstance, Options, Store, Untyped};

async fn kill(instance: &InstanceRef<Untyped>) {
    let (live, permit) = instance.admitted().await.unwrap();
    live.actor.kill();
    drop(permit);
    // Dead for certain, so that the next use of the handle is of another activation.
    while live.actor.get_status() != ractor::ActorStatus::Stopped {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_a_crash_the_next_use_goes_on_from_the_committed_state() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Untyped).await.unwrap();
    let it = store.create(NewInstance::new()).await.unwrap();
    it.update(|state| state["n"] = 1.into()).await.unwrap();
    kill(&it).await;
    it.update(|state| state["n"] = (state["n"].as_u64().unwrap() + 1).into()).await.unwrap();
    assert_eq!(it.state().await.unwrap()["n"], 2);
    assert_eq!(it.record().await.unwrap().epoch, 2);
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_crashed_actor_is_told_and_the_registry_lives_on() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), Untyped).await.unwrap();
    let it = store.create(NewInstance::new()).await.unwrap();
    let other = store.create(NewInstance::new()).await.unwrap();
    let (live, permit) = it.admitted().await.unwrap();
    // On one thread the actor has no turn before it is killed: the update is in its mailbox.
    let update = it.update(|state| state["n"] = 1.into());
    let mut update = std::pin::pin!(update);
    assert!(futures::poll!(&mut update).is_pending());
    live.actor.kill();
    drop((live, permit));
    assert!(matches!(update.await, Err(Error::Crashed { .. })));
    assert_eq!(it.record().await.unwrap().revision, 0);
    other.update(|state| state["n"] = 1.into()).await.unwrap();
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_that_crashes_again_and_again_is_left_alone_for_a_while() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { crashes_per_minute: 3, ..Options::default() };
    let store = Store::open_with(root.path(), Untyped, options).await.unwrap();
    let it = store.create(NewInstance::new()).await.unwrap();
    let other = store.create(NewInstance::new()).await.unwrap();
    for _ in 0..3 {
        kill(&it).await;
    }
    let error = it.record().await.unwrap_err();
    assert!(matches!(error, Error::CrashLoop { crashes: 3, .. }), "{error}");
    other.update(|state| state["n"] = 1.into()).await.unwrap();
    store.shutdown().await.unwrap();
}

#[test]
fn a_crash_of_an_actor_is_counted() {
    let tally = crate::tests::tally::Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let life = async {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Untyped).await.unwrap();
        let it = store.create(NewInstance::new()).await.unwrap();
        kill(&it).await;
        it.record().await.unwrap();
        store.shutdown().await.unwrap();
    };
    metrics::with_local_recorder(&tally, || runtime.block_on(life));
    assert_eq!(tally.of("fiefdom_crashes_total what=actor"), (1.0, 1));
    assert_eq!(tally.of("fiefdom_live_instances").0.to_bits(), 0f64.to_bits(), "the gauge is back where it was");
}

//! The death of an instance's actor, which nothing outside the crate can bring about.

use crate::{BoxError, Error, InstanceRef, NewInstance, Options, Store, Untyped};

type TestResult = Result<(), BoxError>;

async fn kill(instance: &InstanceRef<Untyped>) -> crate::Result<()> {
    let (live, permit) = instance.admitted().await?;
    live.actor.kill();
    drop(permit);
    // Dead for certain, so that the next use of the handle is of another activation.
    while live.actor.get_status() != ractor::ActorStatus::Stopped {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test]
async fn after_a_crash_the_next_use_goes_on_from_the_committed_state() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    it.update(|state| state["n"] = 1.into()).await?;
    kill(&it).await?;
    it.update(|state| state["n"] = (state["n"].as_u64().expect("a number") + 1).into()).await?;
    assert_eq!(it.state().await?["n"], 2);
    assert_eq!(it.record().await?.epoch, 2);
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn who_waits_for_a_crashed_actor_is_told_and_the_registry_lives_on() -> TestResult {
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path(), Untyped).await?;
    let it = store.create(NewInstance::new()).await?;
    let other = store.create(NewInstance::new()).await?;
    let (live, permit) = it.admitted().await?;
    // On one thread the actor has no turn before it is killed: the update is in its mailbox.
    let update = it.update(|state| state["n"] = 1.into());
    let mut update = std::pin::pin!(update);
    assert!(futures::poll!(&mut update).is_pending());
    live.actor.kill();
    drop((live, permit));
    assert!(matches!(update.await, Err(Error::Crashed { .. })));
    assert_eq!(it.record().await?.revision, 0);
    other.update(|state| state["n"] = 1.into()).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn one_that_crashes_again_and_again_is_left_alone_for_a_while() -> TestResult {
    let root = tempfile::tempdir()?;
    let options = Options { crashes_per_minute: 3, ..Options::default() };
    let store = Store::open_with(root.path(), Untyped, options).await?;
    let it = store.create(NewInstance::new()).await?;
    let other = store.create(NewInstance::new()).await?;
    for _ in 0..3 {
        kill(&it).await?;
    }
    let error = it.record().await.expect_err("a crash loop");
    assert!(matches!(error, Error::CrashLoop { crashes: 3, .. }), "{error}");
    other.update(|state| state["n"] = 1.into()).await?;
    store.shutdown().await?;
    Ok(())
}

#[test]
fn a_crash_of_an_actor_is_counted() -> TestResult {
    let tally = crate::tests::tally::Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let life = async {
        let root = tempfile::tempdir()?;
        let store = Store::open(root.path(), Untyped).await?;
        let it = store.create(NewInstance::new()).await?;
        kill(&it).await?;
        it.record().await?;
        store.shutdown().await?;
        TestResult::Ok(())
    };
    metrics::with_local_recorder(&tally, || runtime.block_on(life))?;
    assert_eq!(tally.of("fiefdom_crashes_total what=actor"), (1.0, 1));
    assert_eq!(tally.of("fiefdom_live_instances").0.to_bits(), 0f64.to_bits(), "the gauge is back where it was");
    Ok(())
}

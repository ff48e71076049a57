//! Imports beside what is there already, and beside one another.

use std::io::{Cursor, Write as _};
use std::process::{Command, Stdio};

use fiefdom::{Error, ImportOptions, NewInstance, Store, Untyped};

use crate::common::{Counter, TestResult, eventually, id};
use crate::{count, sample};

#[tokio::test]
async fn an_id_that_exists_is_refused_and_one_that_was_never_finished_is_taken() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let bytes = sample().await?;
    store.create(NewInstance::with_id(id("a"))).await?;
    let uid = store.get(&id("a")).await?.record().await?.uid;
    // While its files are not there yet, and when they are.
    for _ in 0..2 {
        let outcome = store.import(Cursor::new(bytes.clone()), ImportOptions::default()).await;
        assert!(matches!(outcome, Err(Error::AlreadyExists { .. })), "{outcome:?}");
        assert_eq!(store.get(&id("a")).await?.record().await?.uid, uid);
        store.flush().await?;
    }
    std::fs::create_dir(temp.path().join("instances/b"))?;
    store.import(Cursor::new(bytes.clone()), ImportOptions::with_id(id("b"))).await?;
    // Deleted, it can come again, under the same id as well.
    store.delete(&id("a")).await?;
    store.import(Cursor::new(bytes), ImportOptions::default()).await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_store_of_another_kind_refuses_the_import() -> TestResult {
    struct Other;
    impl fiefdom::Instance for Other {
        const KIND: &'static str = "other";
        type State = u64;
        type Prepared = ();
        async fn prepare(&self) -> Result<(), fiefdom::BoxError> {
            Ok(())
        }
        fn initial(&self, (): &(), _: &NewInstance) -> Result<u64, fiefdom::BoxError> {
            Ok(0)
        }
    }
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Other).await?;
    let outcome = store.import(Cursor::new(sample().await?), ImportOptions::default()).await;
    assert!(matches!(outcome, Err(Error::KindMismatch { .. })), "{outcome:?}");
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_leaves_a_living_import_alone_and_removes_a_dead_one() -> TestResult {
    let temp = tempfile::tempdir()?;
    let store = Store::open(temp.path(), Untyped).await?;
    let bytes = sample().await?;
    let (reader, mut writer) = std::io::pipe()?;
    let importing = tokio::spawn({
        let store = store.clone();
        async move { store.import(reader, ImportOptions::default()).await }
    });
    writer.write_all(&bytes[..bytes.len() / 2])?;
    let rooms = temp.path().join(".fiefdom/imports");
    eventually("a room to be there", || std::fs::read_dir(&rooms).is_ok_and(|rooms| rooms.count() == 1)).await;
    let dead = rooms.join("11111111-2222-4333-8444-555555555555");
    std::fs::create_dir_all(dead.join("instance/workspace"))?;
    std::fs::write(dead.join("instance/workspace/x"), "x")?;
    let second = Store::open(temp.path(), Untyped).await?;
    assert!(!dead.exists());
    assert_eq!(std::fs::read_dir(&rooms)?.count(), 1);
    writer.write_all(&bytes[bytes.len() / 2..])?;
    drop(writer);
    importing.await??;
    assert_eq!(second.get(&id("a")).await?.record().await?.state["value"], 2);
    second.shutdown().await?;
    store.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_processes_that_import_one_id_one_wins() -> TestResult {
    let temp = tempfile::tempdir()?;
    let (root, file) = (temp.path().join("root"), temp.path().join("a.tar.gz"));
    std::fs::write(&file, sample().await?)?;
    let import = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fiefdom"));
        command.arg("--root").arg(&root).arg("import").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let children: Vec<_> = (0..20).map(|_| import()).collect::<Result<_, _>>()?;
    let mut won = 0;
    for child in children {
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => won += 1,
            Some(2) => assert!(said.contains("exists already"), "{said}"),
            other => panic!("{other:?}: {said}"),
        }
    }
    assert_eq!(won, 1);
    let store = Store::open(&root, Counter).await?;
    assert_eq!(store.get(&id("a")).await?.commit(count).await?.value, 3);
    assert_eq!(std::fs::read_dir(root.join(".fiefdom/imports"))?.count(), 0);
    store.shutdown().await?;
    Ok(())
}

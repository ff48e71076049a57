//! Control of an instance that another store has in use: two stores on one root exclude each other
//! as two processes do, and talk over the same socket.
#![allow(missing_docs)]

#[path = "common/mod.rs"]
mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Counter, PATIENCE, TestResult, id};
use fiefdom::control::{Change, Operation};
use fiefdom::{Error, InstanceRef, NewInstance, Status, Store, Untyped};
use serde_json::json;

struct Two {
    _temp: tempfile::TempDir,
    root: PathBuf,
    /// Has the instance `a` live.
    owner: Store<Counter>,
    instance: InstanceRef<Counter>,
    other: Store<Untyped>,
    /// On which the owner listens.
    socket: PathBuf,
}

impl Two {
    async fn new() -> TestResult<Self> {
        let temp = tempfile::tempdir()?;
        let root = temp.path().join("root");
        Self::at(temp, root).await
    }

    async fn at(temp: tempfile::TempDir, root: PathBuf) -> TestResult<Self> {
        let owner = Store::open(&root, Counter).await?;
        let instance = owner.create(NewInstance::with_id(id("a"))).await?.instance().clone();
        let other = Store::open(&root, Untyped).await?;
        let writer = instance.record().await?.writer.to_string();
        let socket = root.join(".fiefdom/writers").join(writer).join("control.sock");
        Ok(Self { _temp: temp, root, owner, instance, other, socket })
    }

    async fn ask(&self, operation: Operation) -> fiefdom::Result<fiefdom::control::Done> {
        self.other.control(&id("a"), operation).await
    }

    /// What the owner answers to these bytes, after which nothing more is sent.
    fn raw(&self, bytes: &[u8]) -> TestResult<String> {
        let mut stream = connect(&self.socket)?;
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    }
}

fn connect(socket: &Path) -> TestResult<UnixStream> {
    // Test directories are not deep.
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_from_elsewhere_is_a_commit_of_the_owner() -> TestResult {
    let two = Two::new().await?;
    let change = Change::new().merge(json!({"value": 7})).status(Status::Running).reason("told to");
    let done = two.ask(Operation::Update(change)).await?;
    assert!(!done.asked);
    assert_eq!(
        (done.record.status, done.record.revision, &done.record.state["value"]),
        (Status::Running, 1, &json!(7))
    );
    assert_eq!(done.record.status_reason.as_deref(), Some("told to"));
    let here = two.instance.record().await?;
    assert_eq!((here.state.value, here.revision, here.writer), (7, 1, done.record.writer));
    assert_eq!(done.owner.ok_or("no owner")?.writer, here.writer);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_does_not_fit_the_type_changes_nothing() -> TestResult {
    let two = Two::new().await?;
    let patches = [json!({"value": "seven"}), json!({"value": null}), json!(null), json!({"valeu": 7})];
    for patch in patches {
        let change = Change::new().merge(patch.clone()).status(Status::Running);
        let error = two.ask(Operation::Update(change)).await.err().ok_or("it was taken")?;
        assert!(matches!(error, Error::InvalidInput { what: "merge patch", .. }), "{patch}: {error}");
    }
    let record = two.instance.record().await?;
    assert_eq!((record.revision, record.status), (0, Status::Pending));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_from_elsewhere_gets_its_number() -> TestResult {
    let two = Two::new().await?;
    two.instance.append("first", 1).await?;
    let done = two.ask(Operation::Append { kind: "second".into(), data: json!({"n": 2}) }).await?;
    assert_eq!((done.event_seq, done.record.last_event_seq), (Some(2), 2));
    let refused = two.ask(Operation::Append { kind: String::new(), data: json!(null) }).await;
    assert!(matches!(refused, Err(Error::InvalidInput { .. })), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_is_asked_to_stop() -> TestResult {
    let two = Two::new().await?;
    two.instance.transition(Status::Running, None).await?;
    let instance = two.instance.clone();
    let mut listening = Box::pin(async move {
        instance.cancelled().await;
        instance.transition(Status::Cancelled, Some("stopped")).await
    });
    // It listens from its first poll on.
    assert!(futures::poll!(&mut listening).is_pending());
    let working = tokio::spawn(listening);
    let done = two.ask(Operation::Cancel).await?;
    assert!(done.asked);
    working.await??;
    assert_eq!(two.instance.record().await?.status_reason.as_deref(), Some("stopped"));
    let again = two.ask(Operation::Cancel).await?;
    assert!(!again.asked && again.record.status == Status::Cancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_the_owner_sets_the_status() -> TestResult {
    let two = Two::new().await?;
    let done = two.ask(Operation::Cancel).await?;
    assert_eq!((done.asked, done.record.status), (false, Status::Cancelled));
    assert_eq!(two.instance.record().await?.status, Status::Cancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_cannot_be_cancelled_paused_or_unpaused() -> TestResult {
    let two = Two::new().await?;
    two.instance.transition(Status::Succeeded, None).await?;
    for operation in [Operation::Cancel, Operation::Pause, Operation::Unpause] {
        let refused = two.ask(operation.clone()).await;
        let refused = refused.err().ok_or("it was done")?;
        assert!(matches!(refused, Error::Transition { from: Status::Succeeded, .. }), "{operation:?}: {refused}");
    }
    assert_eq!(two.instance.record().await?.revision, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_goes_back_to_where_nobody_is_at_work() -> TestResult {
    let two = Two::new().await?;
    assert_eq!(two.ask(Operation::Pause).await?.record.status, Status::Paused);
    let revision = two.ask(Operation::Pause).await?.record.last_event_seq;
    assert_eq!(revision, 1, "a second pause is told of once");
    assert_eq!(two.ask(Operation::Unpause).await?.record.status, Status::Pending);
    two.instance.commit(|tx| Ok(tx.begin_attempt())).await?;
    two.instance.pause().await?;
    two.instance.unpause().await?;
    assert_eq!(two.instance.record().await?.status, Status::Interrupted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_owner_the_command_acts_itself() -> TestResult {
    let two = Two::new().await?;
    two.owner.shutdown().await?;
    let done = two.ask(Operation::Update(Change::new().merge(json!({"value": 3})))).await?;
    assert!(done.owner.is_none());
    assert_eq!(done.record.state["value"], 3);
    let missing = two.other.control(&id("b"), Operation::Cancel).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_deeper_than_any_socket_address_is_no_obstacle() -> TestResult {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("d".repeat(120)).join("e".repeat(120)).join("root");
    let two = Two::at(temp, root).await?;
    assert!(two.socket.as_os_str().len() > 240);
    assert_eq!(two.ask(Operation::Pause).await?.owner.ok_or("no owner")?.pid, std::process::id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_user_alone_and_goes_with_the_store() -> TestResult {
    let two = Two::new().await?;
    let socket = two.socket.clone();
    let dir = socket.parent().ok_or("a directory")?.to_owned();
    assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(&dir)?.mode() & 0o7777, 0o700);
    let report = fiefdom::Doctor::examine(two.root.as_path())?;
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    two.owner.shutdown().await?;
    assert!(!dir.exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_socket_goes_with_its_dead_writer() -> TestResult {
    let two = Two::new().await?;
    let writers = two.root.join(".fiefdom/writers");
    let dead = writers.join("018f4b6e-0000-4000-8000-000000000001");
    std::fs::create_dir(&dead)?;
    std::fs::write(dead.join("lock"), "{}")?;
    drop(std::os::unix::net::UnixListener::bind(dead.join("control.sock"))?);
    let third = Store::open(two.root.as_path(), Untyped).await?;
    assert!(!dead.exists());
    assert_eq!(std::fs::read_dir(two.root.join(".fiefdom/quarantine"))?.count(), 0, "it is one of our files");
    third.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_a_refusal_that_says_why() -> TestResult {
    let two = Two::new().await?;
    for (bytes, says) in [
        ("nonsense\n", "control request"),
        ("{\"version\":1,\"id\":\"../../etc\",\"operation\":\"cancel\"}\n", "not a valid instance id"),
        ("{\"version\":1,\"id\":\"a\",\"operation\":{\"update\":{\"status\":\"dead\"}}}\n", "dead"),
        ("{\"version\":9,\"id\":\"a\",\"operation\":\"cancel\"}\n", "unsupported"),
        ("{\"version\":1,\"id\":\"b\",\"operation\":\"cancel\"}\n", "elsewhere"),
    ] {
        let answer = two.raw(bytes.as_bytes())?;
        assert!(answer.contains(says), "{bytes} {answer}");
    }
    assert_eq!(two.raw(b"{\"version\":1,")?, "", "a request that was cut short is none");
    let answer = two.raw(&vec![b' '; 4 << 20])?;
    assert!(answer.is_empty() || answer.contains("too_large"), "{answer}");
    assert_eq!(two.instance.record().await?.revision, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_end_is_cut_off_at_the_limit() -> TestResult {
    let two = Two::new().await?;
    let mut stream = connect(&two.socket)?;
    let begun = Instant::now();
    let (chunk, mut sent) = (vec![b'x'; 1 << 16], 0_u64);
    // The owner hangs up; it does not read on for ever.
    while stream.write_all(&chunk).is_ok() {
        sent += 1 << 16;
        assert!(sent < 16 << 20 && begun.elapsed() < PATIENCE, "{sent} bytes were taken");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_greedy_clients_hold_nobody_up_for_long() -> TestResult {
    let two = Two::new().await?;
    let socket = two.socket.clone();
    // More than are served at once: they say nothing, or ask and never read.
    let mut flood = Vec::new();
    for n in 0..40 {
        let mut stream = connect(&socket)?;
        if n % 2 == 0 {
            stream.write_all(b"{\"version\":1,\"id\":\"a\",\"operation\":\"pause\"}\n")?;
        }
        flood.push(stream);
    }
    // The instance itself is not behind them.
    two.instance.append("meanwhile", 1).await?;
    let done = two.ask(Operation::Update(Change::new().merge(json!({"value": 1})))).await?;
    assert_eq!(done.record.state["value"], 1);
    for mut stream in flood {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        assert!(rest.is_empty() || rest.ends_with(b"\n"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_a_socket_is_named_as_before() -> TestResult {
    let two = Two::new().await?;
    std::fs::remove_file(&two.socket)?;
    let error = two.ask(Operation::Cancel).await.err().ok_or("it was done")?;
    let Error::Locked { owner: Some(owner), .. } = &error else { return Err(error.into()) };
    assert_eq!(owner.pid, std::process::id());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_instance_is_not_brought_to_life_for_a_request() -> TestResult {
    let two = Two::new().await?;
    two.owner.create(NewInstance::with_id(id("b"))).await?;
    let before = two.owner.stats().await?.live_instances;
    let answer = two.raw(b"{\"version\":1,\"id\":\"unknown\",\"operation\":\"cancel\"}\n")?;
    assert!(answer.contains("elsewhere"), "{answer}");
    assert_eq!(two.owner.stats().await?.live_instances, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_all_answered() -> TestResult {
    let two = Two::new().await?;
    let append = |n: u64| two.ask(Operation::Append { kind: "told".into(), data: json!(n) });
    let done = futures::future::try_join_all((0..60).map(append)).await?;
    let mut seqs: Vec<_> = done.iter().filter_map(|done| done.event_seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=60).collect::<Vec<u64>>());
    Ok(())
}

//! `fiefdom doctor`: every damage is found, a repair does what was printed and loses no byte, and a
//! healthy store has no finding, also while it is at work. Here is what the subjects share.
#![allow(missing_docs)]

#[path = "../common/cli.rs"]
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod findings;
mod owners;
mod repairs;
#[path = "../common/strace.rs"]
mod strace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cli::{Fief, Ran, Started};
use common::{Counter, TestResult, copy_tree, id, lagging, options};
use fiefdom::{Doctor, NewInstance, Options, Severity, Store};

const EVENTS: u32 = 30;

/// Segments are small, so that some are full.
fn small() -> Options {
    options(|o| {
        o.event_segment_bytes = 1 << 10;
        o.log_segment_bytes = 16 << 10;
        o.materialise_within = Duration::from_millis(2);
        o.log_segment_age = Duration::from_millis(20);
        o.live_instances = 4;
    })
}

/// A store with two instances, `a` and `b`, closed in order.
async fn healthy() -> TestResult<Fief> {
    let fief = Fief::new();
    let store = Store::open_with(&fief.root, Counter, small()).await?;
    for name in ["a", "b"] {
        let it = store.create(NewInstance::with_id(id(name))).await?;
        for n in 0..EVENTS {
            it.commit(move |tx| tx.event("counted", &n)).await?;
        }
    }
    store.shutdown().await?;
    Ok(fief)
}

/// Copies a directory to a name that is free.
fn copy_to(from: &Path, to: &Path) -> TestResult {
    std::fs::create_dir(to)?;
    copy_tree(from, to)
}

fn doctor(fief: &Fief, args: &[&str]) -> Ran {
    Started::new(fief.command([&["doctor"], args].concat())).end()
}

/// Severity, path below the root, offset and reason of each finding.
fn findings(fief: &Fief) -> Vec<(Severity, String, Option<u64>, String)> {
    let report = Doctor::examine(&fief.root).expect("a report");
    let below = |path: &PathBuf| path.strip_prefix(&fief.root).expect("below the root").display().to_string();
    report.findings.iter().map(|f| (f.severity, below(&f.path), f.offset, f.reason.clone())).collect()
}

fn only_finding(fief: &Fief) -> (Severity, String, Option<u64>, String) {
    let mut found = findings(fief);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Whether these bytes are in the quarantine, in one file.
fn is_kept(fief: &Fief, bytes: &[u8]) -> bool {
    cli::holds(&fief.root.join(".fiefdom/quarantine"), bytes)
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// A root whose process died with commits that are in its log alone.
async fn remains() -> TestResult<Fief> {
    let (live, copy) = (Fief::new(), Fief::new());
    let store = Store::open_with(&live.root, Counter, lagging()).await?;
    let it = store.create(NewInstance::with_id(id("a"))).await?;
    for n in 0..EVENTS {
        it.commit(move |tx| tx.event("counted", &n)).await?;
    }
    copy_to(&live.root, &copy.root)?;
    store.shutdown().await?;
    Ok(copy)
}

#[tokio::test]
async fn json_is_one_document() -> TestResult {
    let fief = healthy().await?;
    std::fs::write(fief.instance("a/instance.json"), "")?;
    let ran = Started::new(fief.command(["--json", "doctor"])).end();
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
    let [document] = &ran.json_lines()[..] else { return Err("not one document".into()) };
    assert_eq!(
        (&document["healthy"], &document["instances"], &document["damage"]),
        (&false.into(), &2.into(), &1.into())
    );
    let finding = &document["findings"][0];
    assert_eq!((&finding["severity"], &finding["instance"]), (&"damage".into(), &"a".into()));
    assert!(finding["repairable"] == false && finding["repair"].is_string() && finding["reason"].is_string());
    Ok(())
}

#[test]
fn a_root_that_cannot_be_read_is_exit_5() {
    let fief = Fief::new();
    doctor(&fief, &[]).failed(5, &["no complete store"]);
}

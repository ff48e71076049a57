//! The command line: `migrate`.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use cli::Fief;
use fiefdom::jobs::CommandJob;
use fiefdom::{Instance as _, Store, Untyped};
use serde_json::{Value, json};

/// A job and an instance of a kind that the tool does not know.
fn fief() -> Fief {
    let fief = Fief::new();
    let jobs = fief.write("jobs", r#"{"id":"job","cmd":"true"}"#);
    assert_eq!(fief.run(["run", "--batch", "batch", &jobs]).code, Some(0));
    fief.ok(["create", "other", "--kind", "recipe"]);
    fief
}

fn set_version(fief: &Fief, id: &str, version: u32) {
    let mut record = fief.record(id);
    record["schema_version"] = json!(version);
    std::fs::write(fief.instance(id).join("instance.json"), record.to_string()).expect("written");
}

fn outcomes(lines: &[Value]) -> Vec<(&str, &str)> {
    let word = |line: &Value, field: &str| line[field].as_str().map(str::len).is_some();
    assert!(lines.iter().all(|line| word(line, "instance") && word(line, "outcome")), "{lines:#?}");
    let mut found: Vec<_> = lines
        .iter()
        .map(|line| (line["instance"].as_str().unwrap_or(""), line["outcome"].as_str().unwrap_or("")))
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn what_is_current_stays_and_unknown_kinds_are_left() {
    let fief = fief();
    let before = [fief.record("job"), fief.record("other")];
    let text = fief.ok(["migrate", "--all"]);
    assert_eq!(text, "0 migrated, 2 current, 1 left to the programs that know their kinds (recipe)\n");
    let ran = fief.run(["--json", "migrate", "--all"]);
    let mut lines = ran.json_lines();
    let summary = lines.pop().expect("a summary");
    assert_eq!(outcomes(&lines), [("batch", "current"), ("job", "current"), ("other", "unknown_kind")]);
    assert_eq!((&summary["current"], &summary["unknown_kinds"]), (&json!(2), &json!(["recipe"])));
    assert_eq!([fief.record("job"), fief.record("other")], before);
}

#[test]
fn what_cannot_be_migrated_is_reported_and_the_others_go_on() {
    let fief = fief();
    set_version(&fief, "job", CommandJob::SCHEMA_VERSION + 1);
    let before = fief.record("job");
    let ran = fief.run(["migrate", "--all"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(ran.err.contains("which is newer") && ran.out.contains("1 current, 1 failed, 1 left"), "{ran:?}");
    set_version(&fief, "job", 0);
    for how in [&["migrate", "job"][..], &["migrate", "job", "--dry-run"]] {
        let ran = fief.run(how);
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(ran.err.contains("no migration from version 0") && !ran.err.contains("panicked at"), "{ran:?}");
    }
    set_version(&fief, "job", CommandJob::SCHEMA_VERSION + 1);
    assert_eq!(fief.record("job"), before);
}

#[test]
fn a_dry_run_writes_nothing() {
    let fief = fief();
    let before = fief.tree();
    let text = fief.ok(["migrate", "--all", "--dry-run"]);
    assert_eq!(text, "0 can be migrated, 2 current, 1 left to the programs that know their kinds (recipe)\n");
    assert_eq!(fief.tree(), before);
}

#[tokio::test]
async fn an_instance_in_use_by_another_process_is_locked() {
    let fief = fief();
    set_version(&fief, "job", 0);
    let store = Store::open(fief.root.as_path(), Untyped).await.expect("open");
    let job = store.get(&"job".parse().expect("an id")).await.expect("a job");
    let _awake = job.keep_awake().await.expect("awake");
    let ran = fief.run(["migrate", "job", "other"]);
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("in use by process") && ran.out.contains("1 locked"), "{ran:?}");
    store.shutdown().await.expect("closed");
}

#[test]
fn wrong_usage_changes_nothing_and_says_what_is_right() {
    let fief = Fief::new();
    fief.run(["migrate"]).failed(2, &["--all"]);
    fief.run(["migrate", "a", "--all"]).failed(2, &["--all"]);
    fief.run(["migrate", "a"]).failed(3, &["there is no instance"]);
    assert_eq!(fief.ok(["migrate", "--all"]), "0 migrated, 0 current\n");
    assert!(!fief.root.exists(), "a mistyped root leaves nothing behind");
    let fief = self::fief();
    let ran = fief.run(["migrate", "job", "missing", "job"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), "0 migrated, 1 current, 1 failed\n"), "{ran:?}");
}

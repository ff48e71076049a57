//! `fiefdom alarm` and `fiefdom alarms`.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use cli::{Fief, Started};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn an_alarm_is_set_listed_replaced_and_taken_back() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.ok(["create", "b"]);
    assert_eq!(
        fief.ok(["alarm", "a", "--at", "2100-01-31T08:00:00Z", r#"{"n":1}"#]),
        "a has an alarm at 2100-01-31T08:00:00.000Z\n"
    );
    fief.ok(["alarm", "b", "--in", "1h"]);
    let listed = fief.json(["alarms"]);
    assert_eq!(listed["alarms"][0]["instance_id"], "b");
    assert_eq!(
        listed["alarms"][1],
        json!({"instance_id": "a", "alarm": {"at": "2100-01-31T08:00:00Z", "revision": 1, "payload": {"n": 1}}})
    );
    fief.ok(["alarm", "a", "--at", "2099-01-31T08:00:00Z"]);
    assert_eq!(fief.record("a")["alarm"]["at"], "2099-01-31T08:00:00Z");
    assert_eq!(fief.ok(["alarm", "b", "--clear"]), "b has no alarm any more\n");
    assert_eq!(fief.ok(["alarm", "b", "--clear"]), "b had no alarm\n");
    let table = fief.ok(["alarms"]);
    assert!(table.lines().count() == 2 && table.contains("2099-01-31T08:00:00.000Z"), "{table}");
}

#[test]
fn show_tells_of_an_alarm_and_of_a_pin() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let shown = fief.ok(["show", "a"]);
    assert!(!shown.contains("alarm") && !shown.contains("pinned"), "{shown}");
    fief.ok(["alarm", "a", "--at", "2100-01-31T08:00:00Z", r#""look again""#]);
    fief.ok(["pin", "a"]);
    let shown = fief.ok(["show", "a"]);
    assert!(shown.contains("alarm      2100-01-31 08:00:00 UTC, payload \"look again\"\n"), "{shown}");
    assert!(shown.contains("pinned     "), "{shown}");
}

#[test]
fn an_alarm_that_is_due_is_printed_once_by_who_takes_it() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.ok(["alarm", "a", "--in", "1ms", r#""look again""#]);
    let mut taking = Started::new(fief.command(["alarms", "--take"]));
    taking.prints("look again");
    cli::until("it is done", || fief.record("a").get("alarm").is_none().then_some(()));
    taking.signal(Signal::INT);
    let ran = taking.end();
    assert_eq!((ran.code, ran.out.lines().count()), (Some(130), 1), "{ran:?}");
    assert_eq!(fief.ok(["alarms"]), "");
}

#[test]
fn a_wrong_alarm_is_refused_and_nothing_is_changed() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.run(["alarm", "a", "--at", "2001-01-01T00:00:00Z"]).failed(2, &["has passed", "set a later time"]);
    fief.run(["alarm", "a", "--at", "tomorrow"]).failed(2, &["--at"]);
    fief.run(["alarm", "a"]).failed(2, &["--at", "--in", "--clear"]);
    fief.run(["alarm", "a", "--in", "5000000000d"]).failed(2, &["--in"]);
    fief.run(["alarm", "a", "--clear", "--in", "5m"]).failed(2, &["--clear"]);
    fief.run(["alarm", "none", "--in", "5m"]).failed(3, &["none"]);
    assert_eq!(fief.record("a")["revision"], 0);
}

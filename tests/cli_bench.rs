//! `fiefdom bench`: figures that add up, and nothing left behind.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use std::path::{Path, PathBuf};
use std::process::Command;

use cli::{Fief, Ran, Started, bare, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A directory to measure in, and the command.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().expect("a path")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = bare();
        command.args(["bench", "--dir"]).arg(self.0.path()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Started::new(self.command(args)).end()
    }

    /// The one document of a run that must succeed.
    fn measured(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], args].concat());
        ran.succeeded_silently();
        let mut lines = ran.json_lines();
        assert_eq!(lines.len(), 1, "{ran:?}");
        lines.remove(0)
    }

    #[track_caller]
    fn is_empty(&self) {
        let left: Vec<_> = self.0.path().read_dir().expect("a directory").collect();
        assert!(left.is_empty(), "{left:?} is left");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Percentiles that rise, of something that took time.
#[track_caller]
fn ordered(latency: &Value) {
    let all: Vec<f64> = ["p50", "p90", "p99", "p99.9", "max"].iter().map(|name| number(&latency[name])).collect();
    assert!(all[0] > 0.0 && all.is_sorted(), "{latency}");
}

/// What every shape has, and the shape itself.
#[track_caller]
fn sound<'a>(measured: &'a Value, shape: &str) -> &'a Value {
    let shapes = measured["shapes"].as_array().expect("shapes");
    let found = shapes.iter().find(|found| found["shape"] == shape).unwrap_or_else(|| panic!("no {shape}"));
    ordered(&found["latency_us"]);
    let (operations, seconds) = (number(&found["operations"]), number(&found["seconds"]));
    let rate = number(&found["per_second"]);
    assert!(operations > 0.0 && (rate * seconds / operations - 1.0).abs() < 1e-6, "{found}");
    for append in ["append", "append_batch"] {
        ordered(&found[append]["latency_us"]);
        assert!(number(&found[append]["operations"]) > 0.0, "{found}");
    }
    assert!(number(&found["append"]["bytes"]) > 200.0, "a commit is larger than its state: {found}");
    assert!(number(&found["append_batch"]["bytes"]) >= number(&found["append"]["bytes"]), "{found}");
    let ratio = number(&found["latency_us"]["p50"]) / number(&found["append"]["latency_us"]["p50"]);
    assert!((number(&found["ratios"]["p50_to_append_p50"]) / ratio - 1.0).abs() < 1e-6, "{found}");
    found
}

const SMALL: [&str; 6] = ["--seconds", "0.3", "--callers", "4", "--instances", "20"];

fn small(shape: &str) -> (Value, Value) {
    let place = Place::new();
    let measured = place.measured(&[&SMALL[..], &["--shape", shape]].concat());
    place.is_empty();
    (sound(&measured, shape).clone(), measured)
}

#[test]
fn a_measurement_says_on_what_and_how_it_was_taken() {
    let place = Place::new();
    let measured = place.measured(&[&SMALL[..], &["--shape", "warm", "--durability", "os"]].concat());
    assert_eq!(measured["durability"], "os");
    assert_eq!(measured["directory"], json!(place.path()));
    assert_eq!((&measured["callers"], &measured["record_bytes"]), (&json!(4), &json!(200)));
    assert_eq!(measured["interrupted"], false);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    assert_eq!(measured["machine"]["kernel"], kernel.trim());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let kind = measured["file_system"]["type"].as_str().expect("a type");
    assert!(mounts.contains(&format!(" {kind} ")), "{kind:?} is not in {mounts}");
    sound(&measured, "warm");
    place.is_empty();
}

#[test]
fn in_the_steady_state_callers_share_batches() {
    let (warm, _) = small("warm");
    let together = number(&warm["commits_per_batch"]);
    assert!((1.0..=4.0).contains(&together), "{warm}");
}

#[test]
fn a_cold_start_uses_every_instance_once_in_each_burst() {
    let (cold, _) = small("cold");
    let whole = |value: &Value| value.as_u64().expect("a whole number");
    assert_eq!(whole(&cold["operations"]), whole(&cold["bursts"]) * 20, "{cold}");
}

#[test]
fn churn_has_fewer_places_than_instances() {
    let (churn, _) = small("churn");
    assert_eq!(churn["live_limit"], 5);
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let (recovery, _) = small("recovery");
    assert_eq!((&recovery["lost"], &recovery["operations"]), (&json!(0), &json!(4)), "{recovery}");
    assert!(number(&recovery["acknowledged"]) > 0.0 && number(&recovery["log_bytes"]) > 0.0, "{recovery}");
    assert!(number(&recovery["open_us"]) > 0.0, "{recovery}");
}

#[test]
fn the_tail_is_measured_at_half_of_the_saturated_rate() {
    let (tail, _) = small("tail");
    let (offered, saturated) = (number(&tail["offered_per_second"]), number(&tail["saturated_per_second"]));
    assert!((offered * 2.0 - saturated).abs() < 1e-6, "{tail}");
    // Every operation that was due was done, whether in time or not: 0.3 s of them.
    assert!((number(&tail["operations"]) - offered * 0.3).abs() <= 1.0, "{tail}");
    let ratio = number(&tail["latency_us"]["p99.9"]) / number(&tail["latency_us"]["p50"]);
    assert!((number(&tail["p99.9_to_p50"]) / ratio - 1.0).abs() < 1e-6, "{tail}");
}

/// The names of the writers that have the root of the tail open.
fn writers(dir: &Path) -> Option<Vec<std::ffi::OsString>> {
    let scratch = dir.read_dir().ok()?.flatten().next()?.path();
    let writers = scratch.join("0-tail/.fiefdom/writers").read_dir().ok()?;
    // One that is being made is called otherwise.
    let names = writers.flatten().map(|entry| entry.file_name());
    Some(names.filter(|name| !name.as_encoded_bytes().starts_with(b"new-")).collect())
        .filter(|all: &Vec<_>| !all.is_empty())
}

#[test]
fn a_stall_shows_in_every_update_that_it_held_up() {
    let place = Place::new();
    let started = Started::new(place.command(&["--json", "--seconds", "3", "--callers", "4", "--shape", "tail"]));
    let first = until("saturation", || writers(&place.path()));
    until("the open load", || writers(&place.path()).filter(|now| *now != first));
    // Not a wait for something: the length of the stall, a third of the load.
    let pid = Pid::from_child(&started.child);
    std::thread::sleep(std::time::Duration::from_millis(100));
    kill_process(pid, Signal::STOP).expect("signalled");
    std::thread::sleep(std::time::Duration::from_secs(1));
    kill_process(pid, Signal::CONT).expect("signalled");
    let ran = started.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // A third of the updates came due in that second, each with what was left of it as its latency.
    // Of those that were under way there are four: too few to reach this percentile.
    let p90 = number(&sound(&ran.json_lines()[0], "tail")["latency_us"]["p90"]);
    assert!(p90 > 500_000.0, "{p90} us");
}

#[test]
fn a_sustained_load_shows_each_tenth_of_its_time() {
    let place = Place::new();
    // A tenth of it is long enough for a commit, also on a slow disk.
    let measured = place.measured(&["--seconds", "4", "--callers", "4", "--shape", "sustained"]);
    let sustained = sound(&measured, "sustained");
    let intervals = sustained["intervals"].as_array().expect("intervals");
    assert_eq!(intervals.len(), 10, "{sustained}");
    for interval in intervals {
        assert!(number(&interval["per_second"]) > 0.0, "{interval}");
        assert!(number(&interval["resident_bytes"]) > 1e6 && number(&interval["log_bytes"]) > 0.0, "{interval}");
    }
    let (first, last) = (number(&intervals[0]["per_second"]), number(&intervals[9]["per_second"]));
    assert!((number(&sustained["last_to_first"]) * first / last - 1.0).abs() < 1e-6, "{sustained}");
}

#[test]
fn people_get_a_table() {
    let place = Place::new();
    let ran = place.run(&[&SMALL[..], &["--shape", "warm,recovery"]].concat());
    ran.succeeded_silently();
    let lines: Vec<&str> = ran.out.lines().collect();
    let head = lines.iter().position(|line| line.starts_with("SHAPE")).expect("a head");
    assert!(lines[head].ends_with("P50/APPEND"), "{ran:?}");
    assert!(lines[head + 1].starts_with("warm ") && lines[head + 2].starts_with("recovery "), "{ran:?}");
    assert!(ran.out.contains("none is lost"), "{ran:?}");
    place.is_empty();
}

/// Waits until it has a root below `dir` with so many instances or more.
fn under_way(dir: &Path) {
    until("the load to begin", || {
        let scratch = dir.read_dir().ok()?.flatten().next()?.path();
        let root = scratch.read_dir().ok()?.flatten().find(|entry| entry.path().is_dir())?.path();
        (root.join("instances").read_dir().ok()?.count() >= 4).then_some(())
    });
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    for shape in ["warm", "cold", "churn", "recovery", "tail", "sustained"] {
        let place = Place::new();
        let started = Started::new(place.command(&["--json", "--seconds", "600", "--callers", "4", "--shape", shape]));
        under_way(&place.path());
        // It alone, and not the process that it has started to kill it: that one must go as well.
        kill_process(Pid::from_child(&started.child), Signal::INT).expect("signalled");
        let ran = started.end();
        assert_eq!(ran.code, Some(130), "{shape}: {ran:?}");
        assert_eq!(ran.json_lines()[0]["interrupted"], true, "{shape}: {ran:?}");
        place.is_empty();
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let place = Place::new();
    for (args, word) in [
        (&["--seconds", "0"][..], "number of seconds"),
        (&["--seconds", "soon"], "number of seconds"),
        (&["--callers", "0"], "--callers"),
        (&["--instances", "1"], "--instances"),
        (&["--record-bytes", "99999999"], "--record-bytes"),
        (&["--durability", "maybe"], "disk, os"),
        (&["--shape", "round"], "sustained"),
        (&["--root", "elsewhere"], "--dir"),
    ] {
        place.run(args).failed(2, &[word]);
    }
    place.is_empty();
}

#[test]
fn nobody_measures_inside_of_a_root() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    let before = fief.tree();
    for dir in [fief.root.clone(), fief.root.join("instances"), fief.instance("a")] {
        let mut command = bare();
        command.args(["bench", "--dir"]).arg(dir);
        Started::new(command).end().failed(2, &["data root", "--dir"]);
    }
    assert_eq!(fief.tree(), before);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let place = Place::new();
    let file = place.path().join("file");
    std::fs::write(&file, "").expect("written");
    for (dir, said) in
        [(file.as_path(), "Not a directory"), (&place.path().join("none"), "No such file"), ("/proc".as_ref(), "/proc")]
    {
        let mut command = bare();
        command.args(["bench", "--dir"]).arg(dir);
        Started::new(command).end().failed(5, &[dir.to_str().expect("UTF-8"), said]);
    }
}

#[test]
fn without_room_on_the_disk_nothing_is_begun() {
    let place = Place::new();
    let args = ["--shape", "cold,churn,cold,churn,cold,churn", "--instances", "1000000", "--record-bytes", "1048576"];
    place.run(&args).failed(5, &["MiB are free", "--dir"]);
    place.is_empty();
}

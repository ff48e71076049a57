//! The command line: jobs that one process runs are cancelled, paused and changed from another.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use cli::{Fief, Started, lines, until};
use rustix::process::Signal;
use serde_json::json;

/// A job that notes that it has begun, and ends when the file `go` is there.
fn waiting_job(fief: &Fief) -> String {
    format!(
        "echo begun >> {}; until [ -e {} ]; do sleep 0.02; done",
        fief.beside("begun").display(),
        fief.beside("go").display()
    )
}

/// Runs one such job as `b-1`, and waits until it is at work.
fn run_one(fief: &Fief, more: &[&str]) -> Started {
    let jobs = fief.write("jobs", waiting_job(fief));
    let mut args = vec!["run", "-j", "1", "--batch", "b"];
    args.extend(more);
    args.push(&jobs);
    let runner = Started::new(fief.command(args));
    until("the job to begin", || (!lines(&fief.beside("begun")).is_empty()).then_some(()));
    runner
}

/// The states of the processes of the jobs, as `/proc` has them; those that are gone left out.
fn states(fief: &Fief) -> Vec<char> {
    let stats =
        fief.survivors().into_iter().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

fn until_stopped(fief: &Fief) {
    until("the processes to be stopped", || {
        let states = states(fief);
        (!states.is_empty() && states.iter().all(|state| *state == 'T')).then_some(())
    });
}

/// How many sockets a process has open.
fn sockets(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.display().to_string().starts_with("socket:")).count()
}

fn until_status(fief: &Fief, id: &str, status: &str) {
    until(&format!("{id} to be {status}"), || (fief.json(["show", id])["status"] == status).then_some(()));
}

#[test]
fn a_job_of_another_process_is_cancelled() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    let said = fief.json(["cancel", "--wait", "b-1"]);
    assert_eq!((&said["status"], &said["asked"]), (&json!("cancelled"), &json!(false)), "{said}");
    let ran = runner.end();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("1 cancelled"), "{ran:?}");
    assert_eq!(fief.status("b-1"), "cancelled");
    assert_eq!(fief.survivors(), [0; 0]);
}

/// Also when the owner's files follow late.
#[test]
fn what_a_command_reports_is_what_the_next_one_shows() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    for n in 1..=20 {
        for (command, status) in [("pause", "paused"), ("unpause", "running")] {
            fief.ok([command, "b-1"]);
            assert_eq!(fief.status("b-1"), status, "turn {n}");
        }
    }
    fief.write("go", "");
    assert_eq!(runner.end().code, Some(0));
}

#[test]
fn without_wait_the_command_says_that_it_asked() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    let said = fief.ok(["cancel", "b-1"]);
    assert!(said.starts_with("b-1 asked to stop (by process "), "{said}");
    assert_eq!(runner.end().code, Some(1));
}

#[test]
fn a_job_that_nobody_runs_is_cancelled_at_once() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    runner.signal(Signal::KILL);
    drop(runner);
    assert_eq!(fief.ok(["cancel", "b-1"]), "b-1 cancelled\n");
    assert_eq!(fief.status("b-1"), "cancelled");
    let again = fief.run(["update", "b-1", "--status", "running"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    until("the processes to be gone", || fief.survivors().is_empty().then_some(()));
}

#[test]
fn a_paused_job_stands_still_and_its_timeout_with_it() {
    let fief = Fief::new();
    // Enough for the command that pauses it, on any machine.
    let runner = run_one(&fief, &["--timeout", "8s"]);
    assert!(fief.ok(["pause", "b-1"]).starts_with("b-1 paused (by process "));
    until_stopped(&fief);
    let paused = std::time::Instant::now();
    until("longer than the timeout", || (paused.elapsed().as_millis() > 8500).then_some(()));
    assert!(states(&fief).iter().all(|state| *state == 'T'));
    assert_eq!(fief.json(["show", "b-1"])["status"], "paused");
    // It may end only afterwards: the command reports what stands when it answers.
    let said = fief.ok(["unpause", "b-1"]);
    assert!(said.starts_with("b-1 running (by process "), "{said}");
    fief.write("go", "");
    let ran = runner.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = fief.events("b-1");
    assert_eq!(events, ["job.started", "job.spawned", "job.paused", "job.unpaused", "job.succeeded"]);
}

#[test]
fn a_job_that_goes_on_after_a_pause_has_the_rest_of_its_time() {
    let fief = Fief::new();
    let runner = run_one(&fief, &["--timeout", "5s"]);
    fief.ok(["pause", "b-1"]);
    until_stopped(&fief);
    fief.ok(["unpause", "b-1"]);
    let ran = runner.end();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("it took longer than 5s"), "{ran:?}");
    assert_eq!(fief.survivors(), [0; 0]);
}

#[test]
fn a_paused_job_can_be_cancelled() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    fief.ok(["pause", "b-1"]);
    until_stopped(&fief);
    fief.ok(["cancel", "-w", "b-1"]);
    assert_eq!(runner.end().code, Some(1));
    assert_eq!(fief.status("b-1"), "cancelled");
    assert_eq!(fief.survivors(), [0; 0]);
}

#[test]
fn stopped_processes_die_with_their_runner_and_the_pause_is_kept() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    fief.ok(["pause", "b-1"]);
    until_stopped(&fief);
    runner.signal(Signal::KILL);
    drop(runner);
    until("the processes to be gone", || fief.survivors().is_empty().then_some(()));
    assert_eq!(fief.json(["show", "b-1"])["status"], "paused");

    // The next runner waits with it until somebody lets it go.
    fief.write("go", "");
    let runner = Started::new(fief.command(["resume", "b"]));
    until("the runner to have it", || fief.ok(["pause", "b-1"]).contains("by process").then_some(()));
    assert_eq!(lines(&fief.beside("begun")).len(), 1);
    fief.ok(["unpause", "b-1"]);
    let ran = runner.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("is paused"), "{ran:?}");
    assert_eq!(lines(&fief.beside("begun")).len(), 2);
}

#[test]
fn a_pause_without_a_runner_is_undone_without_one() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    fief.ok(["pause", "b-1"]);
    runner.signal(Signal::KILL);
    drop(runner);
    assert_eq!(fief.ok(["unpause", "b-1"]), "b-1 interrupted\n");
}

#[test]
fn the_runner_that_is_told_to_stop_keeps_the_pause() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    fief.ok(["pause", "b-1"]);
    until_stopped(&fief);
    runner.signal(Signal::INT);
    assert_eq!(runner.end().code, Some(130));
    assert_eq!(fief.status("b-1"), "paused");
    assert_eq!(fief.survivors(), [0; 0]);
}

#[test]
fn a_running_job_takes_changes_and_events_from_outside() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    let changed = fief.json(["update", "b-1", "--merge", r#"{"exit_code":7}"#]);
    assert_eq!((&changed["state"]["exit_code"], &changed["status"]), (&json!(7), &json!("running")));
    fief.ok(["append", "b-1", "seen.outside", r#"{"n":1}"#]);
    for (patch, says) in [(r#"{"exit_code":"x"}"#, "would not fit"), (r#"{"exit_cod":1}"#, "no field")] {
        let ran = fief.run(["update", "b-1", "--merge", patch]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(says), "{ran:?}");
    }
    fief.write("go", "");
    assert_eq!(runner.end().code, Some(0));
    assert!(fief.events("b-1").contains(&"seen.outside".to_owned()));
}

#[test]
fn a_job_whose_status_is_set_to_cancelled_is_ended() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    fief.ok(["update", "b-1", "--status", "cancelled", "--reason", "not needed"]);
    assert_eq!(runner.end().code, Some(1));
    assert_eq!(fief.status("b-1"), "cancelled");
    assert_eq!(fief.survivors(), [0; 0]);
}

#[test]
fn one_that_cannot_be_cancelled_keeps_no_other_from_it() {
    let fief = Fief::new();
    fief.ok(["create", "a"]);
    fief.ok(["create", "z"]);
    let ran = fief.run(["cancel", "a", "missing", "z"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), "a cancelled\nz cancelled\n"), "{ran:?}");
    let ran = fief.run(["pause", "a"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[test]
fn a_frozen_owner_that_is_killed_in_the_middle_of_a_request_is_taken_over_from() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    // It takes the connection in the kernel, and answers nothing.
    runner.signal(Signal::STOP);
    let mut asker = Started::new(fief.command(["cancel", "b-1"]));
    // Two sockets of the runtime, one to hear signals by, its own, and the connection.
    until("the connection to wait", || (sockets(asker.child.id()) >= 5).then_some(()));
    assert!(asker.child.try_wait().expect("waited").is_none());
    runner.signal(Signal::KILL);
    drop(runner);
    let ran = asker.end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "b-1 cancelled\n"), "{ran:?}");
    until("the processes to be gone", || fief.survivors().is_empty().then_some(()));
    until_status(&fief, "b-1", "cancelled");
}

#[test]
fn to_cancel_a_batch_is_to_stop_its_runner() {
    let fief = Fief::new();
    let runner = run_one(&fief, &[]);
    assert!(fief.ok(["cancel", "b"]).starts_with("b asked to stop"));
    assert_eq!(runner.end().code, Some(130));
    assert_eq!((fief.status("b"), fief.status("b-1")), ("interrupted".into(), "interrupted".into()));
}

#[test]
fn a_job_that_waits_to_be_tried_again_can_be_cancelled() {
    let fief = Fief::new();
    let jobs = fief.write("jobs", "exit 1\n");
    let runner = Started::new(fief.command(["run", "--retries", "900", "--batch", "b", &jobs]));
    until("a retry far away", || {
        let path = fief.instance("b-1").join("events/events.jsonl");
        (lines(&path).iter().filter(|line| line.contains("job.retry")).count() > 2).then_some(())
    });
    fief.ok(["cancel", "b-1"]);
    assert_eq!(runner.end().code, Some(1));
    assert_eq!(fief.status("b-1"), "cancelled");
}

/// Its next attempt would drop what its type does not know, and could not read what does not fit it.
#[test]
fn a_job_that_nobody_runs_takes_only_what_its_type_has() {
    let fief = Fief::new();
    let jobs = fief.write("jobs", "exit 1\n");
    assert_eq!(fief.run(["run", "--batch", "b", &jobs]).code, Some(1));
    let before = fief.record("b-1");
    for patch in [r#"{"note":1}"#, r#"{"command":5}"#] {
        fief.run(["update", "b-1", "--merge", patch]).failed(2, &["state"]);
    }
    assert_eq!(fief.record("b-1"), before);
    fief.ok(["update", "b-1", "--merge", r#"{"command":"exit 0"}"#]);
    assert_eq!(fief.record("b-1")["state"]["command"], "exit 0");
}

#[test]
fn a_job_whose_state_is_not_that_of_a_job_can_be_mended() {
    let fief = Fief::new();
    fief.ok(["create", "a", "--kind", "job", "--state", r#"{"command":5}"#]);
    fief.ok(["update", "a", "--merge", r#"{"command":"true"}"#]);
    assert_eq!(fief.record("a")["state"]["command"], "true");
}

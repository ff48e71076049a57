//! The command line: jobs that are stopped or killed under way, and what others see meanwhile.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;

use cli::{Fief, Started, lines, paste, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Jobs which note that they ran, of which those that block wait for the file `go`.
fn blocking_jobs(fief: &Fief, count: usize, blocked: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for n in 0..count {
        let ran = format!("echo $FIEFDOM_INSTANCE_ID >> {}", fief.beside("ran").display());
        let wait = format!(
            "(sleep 600) & echo $FIEFDOM_INSTANCE_ID >> {}; until [ -e {} ]; do sleep 0.02; done; ",
            fief.beside("begun").display(),
            fief.beside("go").display()
        );
        text.extend([if blocked.contains(&n) { &wait } else { "" }, &ran, "\n"]);
    }
    text
}

#[test]
fn a_runner_that_is_killed_takes_its_jobs_along_and_the_batch_goes_on() {
    let fief = Fief::new();
    let jobs = fief.write("jobs", blocking_jobs(&fief, 30, 10..14));
    let runner = Started::new(fief.command(["run", "-j", "4", "--batch", "b", &jobs]));
    until("four jobs to block", || (lines(&fief.beside("begun")).len() == 4).then_some(()));
    assert!(fief.survivors().len() >= 8, "the jobs and what they started can be seen");
    runner.signal(Signal::KILL);
    let ran = runner.end();
    assert_eq!(ran.code, None, "{ran:?}");
    until("every process of the jobs to be gone", || fief.survivors().is_empty().then_some(()));
    assert_eq!(lines(&fief.beside("ran")).len(), 10);

    fief.write("go", "");
    // What it said before it died is all that there is.
    let ran = paste(&ran.err);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("30 succeeded (10 of them before)"), "{ran:?}");
    let mut times = BTreeMap::new();
    for id in lines(&fief.beside("ran")) {
        *times.entry(id).or_insert(0) += 1;
    }
    assert!(times.len() == 30 && times.values().all(|&count| count == 1), "{times:?}");
    for n in 1..=30 {
        let id = format!("b-{n}");
        let attempts = if (11..=14).contains(&n) { 2 } else { 1 };
        assert_eq!((fief.status(&id), &fief.record(&id)["attempt"]), ("succeeded".into(), &json!(attempts)), "{id}");
    }
    assert_eq!(fief.status("b"), "succeeded");
    assert_eq!(fief.survivors(), [0; 0]);
}

#[test]
fn after_a_kill_the_listing_says_what_was_interrupted() {
    let fief = Fief::new();
    let jobs = fief.write("jobs", blocking_jobs(&fief, 3, 1..2));
    let runner = Started::new(fief.command(["run", "-j", "1", "--batch", "b", &jobs]));
    until("a job to block", || (lines(&fief.beside("begun")).len() == 1).then_some(()));
    runner.signal(Signal::KILL);
    drop(runner);
    let list = fief.json(["ls"]);
    let statuses: BTreeMap<&str, &str> = list["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|record| (record["instance_id"].as_str().unwrap(), record["status"].as_str().unwrap()))
        .collect();
    assert_eq!(statuses, BTreeMap::from([("b", "interrupted"), ("b-1", "succeeded"), ("b-2", "interrupted")]));
}

#[test]
fn ctrl_c_tells_the_jobs_and_the_batch_goes_on() {
    a_signal_tells_the_jobs_and_the_batch_goes_on(Signal::INT);
}

#[test]
fn what_a_service_manager_sends_tells_them_too() {
    a_signal_tells_the_jobs_and_the_batch_goes_on(Signal::TERM);
}

fn a_signal_tells_the_jobs_and_the_batch_goes_on(signal: Signal) {
    let fief = Fief::new();
    let (begun, told, go) = (fief.beside("begun"), fief.beside("told"), fief.beside("go"));
    let job = format!(
        "trap 'echo told >> {1}; exit 1' TERM; echo x >> {0}; until [ -e {2} ]; do sleep 0.02; done\n",
        begun.display(),
        told.display(),
        go.display()
    );
    let jobs = fief.write("jobs", job.repeat(5));
    let runner = Started::new(fief.command(["run", "-j", "2", "--retries", "3", "--batch", "b", &jobs]));
    until("two jobs to begin", || (lines(&begun).len() == 2).then_some(()));
    runner.signal(signal);
    let ran = runner.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert_eq!(lines(&told), ["told"; 2]);
    assert!(ran.err.contains("interrupted") && ran.out.contains("5 unfinished of 5 jobs"), "{ran:?}");
    assert_eq!(
        (fief.status("b"), fief.status("b-1"), fief.status("b-2")),
        ("interrupted".into(), "interrupted".into(), "interrupted".into())
    );
    assert_eq!(fief.events("b-1").last().map(String::as_str), Some("job.interrupted"));
    assert!(!fief.instance("b-3").exists() && lines(&begun).len() == 2, "nothing more was begun");
    assert_eq!(fief.survivors(), [0; 0]);

    fief.write("go", "");
    let ran = paste(&ran.out);
    assert!(ran.code == Some(0) && ran.out.contains("5 succeeded of 5 jobs"), "{ran:?}");
    assert_eq!(
        (lines(&begun).len(), &fief.record("b-1")["attempt"], &fief.record("b-3")["attempt"]),
        (7, &json!(2), &json!(1))
    );
}

#[test]
fn a_job_that_does_not_listen_is_killed_after_the_grace() {
    let fief = Fief::new();
    let begun = fief.beside("begun");
    let job = format!(
        "trap '' TERM; (while :; do sleep 0.1; done) & echo x >> {}; while :; do sleep 0.1; done\n",
        begun.display()
    );
    let jobs = fief.write("jobs", job);
    let mut runner = Started::new(fief.command(["run", "--batch", "b", &jobs]));
    until("the job to begin", || (lines(&begun).len() == 1).then_some(()));
    runner.signal(Signal::INT);
    let told = std::time::Instant::now();
    let status = runner.status();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    assert!(told.elapsed().as_secs() >= 4, "it had its time to end: {:?}", told.elapsed());
    assert_eq!(fief.survivors(), [0; 0]);
    assert_eq!(fief.status("b-1"), "interrupted");
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_the_grace() {
    let fief = Fief::new();
    let (begun, told) = (fief.beside("begun"), fief.beside("told"));
    let job = format!(
        "trap 'echo told >> {}' TERM; echo x >> {}; while :; do sleep 0.05; done\n",
        told.display(),
        begun.display()
    );
    let jobs = fief.write("jobs", job);
    let mut runner = Started::new(fief.command(["run", "--batch", "b", &jobs]));
    until("the job to begin", || begun.exists().then_some(()));
    runner.signal(Signal::INT);
    until("the job to be told", || told.exists().then_some(()));
    runner.signal(Signal::INT);
    assert_eq!(runner.status().code(), Some(130));
    until("its processes to be gone", || fief.survivors().is_empty().then_some(()));
    assert_eq!(fief.json(["show", "b-1"])["status"], "interrupted", "the next command finds it");
}

#[test]
fn what_another_process_has_can_be_read_and_not_changed() {
    let fief = Fief::new();
    let (begun, go) = (fief.beside("begun"), fief.beside("go"));
    let cmd = format!(
        "echo first; printf unfin; echo x > {}; until [ -e {} ]; do sleep 0.02; done; echo ished",
        begun.display(),
        go.display()
    );
    let jobs = fief.write("jobs", json!({"id": "j", "cmd": cmd}).to_string());
    let runner = Started::new(fief.command(["run", "--batch", "b", &jobs]));
    until("the job to begin", || begun.exists().then_some(()));
    let pid = format!("process {} on", runner.child.id());
    for args in [&["rm", "j"][..], &["rm", "b"], &["resume", "b"], &["run", "--batch", "b", &jobs]] {
        fief.run(args).failed(4, &[&pid, "in use", "wait"]);
    }
    until("the record to be in its file", || (fief.json(["show", "j"])["status"] == "running").then_some(()));
    assert!(fief.ok(["ls", "--status", "running"]).contains("\nj "));
    assert!(fief.ok(["events", "j"]).contains("job.started"));
    assert!(fief.ok(["logs", "j"]).ends_with("first\nunfin\n"));
    let mut text = Started::new(fief.command(["logs", "-f", "j"]));
    let mut documents = Started::new(fief.command(["--json", "logs", "j", "-f"]));
    text.prints("first\n");
    documents.prints("first");
    fief.ok(["create", "other"]);
    fief.write("go", "");
    for follower in [text, documents] {
        let ran = follower.end();
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "it ends with the job: {ran:?}");
        if ran.out.starts_with('{') {
            let said: Vec<Value> = ran.json_lines().iter().map(|line| line["line"].clone()).collect();
            assert_eq!(said, ["first", "unfinished"]);
        } else {
            assert!(ran.out.ends_with("stdout.log <==\nfirst\nunfinished\n"), "{ran:?}");
        }
    }
    assert_eq!(runner.end().code, Some(0));
    fief.ok(["update", "j", "--merge", r#"{"exit_code":1}"#]);
}

//! The command line: running jobs, and running them again.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use cli::{FIEFDOM, Fief, Started, holds, lines, paste, until};
use serde_json::json;

#[test]
fn jobs_are_lines_of_shell_or_json() {
    let fief = Fief::new();
    let jobs = fief.write(
        "jobs",
        concat!(
            "# a comment\n\n",
            "echo plain; pwd; echo \"$FIEFDOM_INSTANCE_ID $FIEFDOM_INSTANCE_DIR\"; echo oops >&2; cat\r\n",
            r#"{"id":"j","cmd":"echo made > here; test ${#TOKEN} -eq 12 && echo \"$PLACE\"","#,
            r#""env":{"TOKEN":"s3cr3t-value","PLACE":"ünïque place"},"tags":{"kind":"fetch"}}"#,
        ),
    );
    let out = {
        let ran = fief.run(["run", "--batch", "b", &jobs]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.err.contains("resume b"), "{ran:?}");
        ran.out
    };
    assert!(out.starts_with("batch b (2 jobs)\n") && out.contains("2 succeeded of 2 jobs"), "{out}");
    assert!(!out.contains("resume"), "there is nothing to go on with: {out}");

    let dir = fief.instance("b-3");
    let printed = lines(&dir.join("logs/stdout.log"));
    assert_eq!(printed, ["plain", &dir.join("workspace").display().to_string(), &format!("b-3 {}", dir.display())]);
    assert_eq!(lines(&dir.join("logs/stderr.log")), ["oops"]);
    assert_eq!(fief.record("b-3")["tags"], json!({"batch": "b"}));
    assert_eq!(fief.record("j")["tags"], json!({"batch": "b", "kind": "fetch"}));
    assert_eq!(lines(&fief.instance("j").join("workspace/here")), ["made"]);
    assert_eq!(lines(&fief.instance("j").join("logs/stdout.log")), ["ünïque place"]);
    assert_eq!(fief.record("j")["state"]["env_names"], json!(["PLACE", "TOKEN"]));
    assert_eq!(fief.events("j"), ["job.started", "job.spawned", "job.succeeded"]);
    for id in ["j", "b"] {
        let record = std::fs::read_to_string(fief.instance(id).join("instance.json")).expect("a record");
        assert!(!record.contains("s3cr3t"), "{record}");
    }
    for dir in [fief.instance("j").join("events"), fief.root.join(".fiefdom")] {
        assert!(!holds(&dir, b"s3cr3t") && !holds(&dir, "ünïque".as_bytes()), "a secret in {}", dir.display());
    }
    assert!(!out.contains("s3cr3t"), "{out}");

    let logs = fief.ok(["logs", "b-3"]);
    assert!(logs.contains("stdout.log <==\nplain\n") && logs.contains("stderr.log <==\noops\n"), "{logs}");
    let ran = fief.run(["--json", "logs", "b-3"]);
    let said = ran.json_lines();
    assert_eq!(
        (said.len(), &said[0], &said[3]["stream"]),
        (4, &json!({"stream": "stdout", "line": "plain"}), &json!("stderr"))
    );
}

#[test]
fn with_json_a_run_is_a_stream_of_documents() {
    let fief = Fief::new();
    let ran = fief
        .run_with_input(["--json", "run", "-j", "1", "-"], "true\n{\"id\":\"bad\",\"cmd\":\"echo why >&2; exit 7\"}\n");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = ran.json_lines();
    assert_eq!(said.len(), 4, "{ran:?}");
    let batch = said[0]["batch"].as_str().expect("an id");
    assert!(batch.starts_with("batch-") && said[0]["resume"].as_str().unwrap().ends_with(batch), "{ran:?}");
    assert_eq!((&said[1]["job"], &said[1]["outcome"]), (&json!(format!("{batch}-1")), &json!("succeeded")));
    assert_eq!(
        (&said[2]["job"], &said[2]["outcome"], &said[2]["error"]),
        (&json!("bad"), &json!("failed"), &json!("exit code 7: why"))
    );
    assert_eq!((&said[3]["succeeded"], &said[3]["failed"], &said[3]["unfinished"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(fief.status(batch), "failed");
}

/// Every job waits until as many have begun as may run at once: too few, and it waits in vain.
#[test]
fn as_many_jobs_run_at_once_as_allowed_and_never_more() {
    let fief = Fief::new();
    let log = fief.beside("log");
    let job = format!(
        "echo start >> {0}; until [ \"$(grep -c start {0})\" -ge 3 ]; do sleep 0.02; done; sleep 0.1; echo end >> {0}\n",
        log.display()
    );
    let ran = fief.run_with_input(["run", "-j", "3", "--timeout", "60s", "-"], job.repeat(9));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (mut now, mut most) = (0, 0);
    for line in lines(&log) {
        now += if line == "start" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most, lines(&log).len()), (0, 3, 18));
}

#[test]
fn a_failed_job_is_tried_again_and_every_attempt_is_on_record() {
    let fief = Fief::new();
    let tries = fief.beside("tries");
    let jobs = format!(
        "{}\n{}\n",
        json!({"id": "third", "cmd": format!("echo x >> {0}; echo try; [ $(wc -l < {0}) -ge 3 ]", tries.display())}),
        json!({"id": "never", "cmd": "echo no luck >&2; exit 9"}),
    );
    let ran = fief.run_with_input(["run", "--retries", "2", "--batch", "b", "-"], jobs);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!((fief.status("third"), &fief.record("third")["attempt"]), ("succeeded".into(), &json!(3)));
    let retry = ["job.started", "job.spawned", "job.retry"];
    assert_eq!(fief.events("third"), [&retry[..], &retry, &["job.started", "job.spawned", "job.succeeded"]].concat());
    assert_eq!(
        lines(&fief.instance("third").join("logs/stdout.log")),
        ["try"; 3],
        "no attempt erases another's output"
    );
    let record = fief.record("never");
    assert_eq!((&record["status"], &record["attempt"]), (&json!("failed"), &json!(3)));
    assert_eq!((&record["status_reason"], &record["state"]["exit_code"]), (&json!("exit code 9: no luck"), &json!(9)));
    assert_eq!(fief.events("never").last().map(String::as_str), Some("job.failed"));
    assert!(
        ran.out.contains("FAILED") && ran.out.contains("never") && ran.out.contains("exit code 9: no luck"),
        "{ran:?}"
    );
}

#[test]
fn a_batch_is_shown_by_how_far_it_is() {
    let fief = Fief::new();
    assert_eq!(
        fief.run_with_input(["run", "--retries", "1", "--batch", "b", "-"], "true\ntrue\nfalse\n").code,
        Some(1)
    );
    let shown = fief.ok(["show", "b"]);
    assert!(shown.contains("\njobs       3: 2 completed, 1 failed\n"), "{shown}");
    assert!(shown.contains("retries 1") && !shown.contains("\nstate") && !shown.contains("offset"), "{shown}");
    assert_eq!(fief.json(["show", "b"])["state"]["completed"], 2, "a program gets it whole");
    assert!(fief.ok(["show", "b-1"]).contains("\nstate\n"), "of a job its state is shown");
}

#[test]
fn a_command_that_does_not_exist_says_so() {
    let fief = Fief::new();
    let ran = fief.run_with_input(["run", "--batch", "b", "-"], "no-such-command --here\n");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for text in [&ran.out, &fief.ok(["show", "b-1"]), &fief.ok(["ls"])] {
        assert!(text.contains("exit code 127") && text.contains("no-such-command"), "{text}");
    }
}

#[test]
fn a_job_that_takes_too_long_is_killed_with_all_its_processes() {
    let fief = Fief::new();
    let (pid, trapped) = (fief.beside("pid"), fief.beside("trapped"));
    // The one in the background ignores the request to end, and outlives its shell.
    let job = format!(
        "(trap '' TERM; echo up > {1}; while :; do sleep 0.05; done) & echo $! > {0}; until [ -e {1} ]; do sleep 0.01; done; exec sleep 600",
        pid.display(),
        trapped.display()
    );
    let ran = fief.run_with_input(["run", "--timeout", "3s", "--batch", "b", "-"], job);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(trapped.exists(), "the job came as far as it should");
    let pid = &lines(&pid)[0];
    assert!(!Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid), "{pid} lives");
    assert_eq!(fief.survivors(), [0; 0]);
    let reason = fief.record("b-1")["status_reason"].to_string();
    assert!(fief.status("b-1") == "failed" && reason.contains("longer than 3s"), "{reason}");
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
}

#[test]
fn what_has_succeeded_is_not_run_again() {
    let fief = Fief::new();
    let (good, bad, mended) = (fief.beside("good"), fief.beside("bad"), fief.beside("mended"));
    let jobs = fief.write(
        "jobs",
        format!("echo x >> {}\necho x >> {}; [ -e {} ]\n", good.display(), bad.display(), mended.display()),
    );
    assert_eq!(fief.run(["run", "--batch", "b", &jobs]).code, Some(1));
    let ran = fief.run(["run", "--batch", "b", &jobs]);
    assert_eq!((ran.code, lines(&good).len(), lines(&bad).len()), (Some(1), 1, 2), "{ran:?}");
    assert!(
        ran.out.contains("already succeeded") && ran.out.contains("1 succeeded (1 of them before), 1 failed of 2"),
        "{ran:?}"
    );

    // Other jobs under the same name: refused, and nothing is touched.
    let before = fief.tree();
    let other = fief.write("other", "true\n");
    fief.run(["run", "--batch", "b", &other]).failed(2, &["batch b", "other jobs", "resume"]);
    assert_eq!(fief.tree(), before);

    fief.write("mended", "");
    let ran = paste(&ran.out);
    assert_eq!((ran.code, lines(&good).len(), lines(&bad).len()), (Some(0), 1, 3), "{ran:?}");
    assert_eq!(
        (fief.status("b-1"), fief.status("b-2"), fief.status("b")),
        ("succeeded".into(), "succeeded".into(), "succeeded".into())
    );
    let ran = fief.run(["resume", "b"]);
    assert_eq!((ran.code, lines(&good).len(), lines(&bad).len()), (Some(0), 1, 3), "{ran:?}");

    // One that was deleted meanwhile is made again, and may fail.
    fief.ok(["rm", "b-2"]);
    std::fs::remove_file(&mended).expect("removed");
    let ran = fief.run(["resume", "b"]);
    assert_eq!((ran.code, lines(&good).len(), fief.status("b-2")), (Some(1), 1, "failed".into()), "{ran:?}");
}

#[test]
fn jobs_are_done_whether_or_not_somebody_listens() {
    let fief = Fief::new();
    let done = fief.beside("done");
    let jobs = fief.write("jobs", format!("echo x >> {0}\necho x >> {0}; false\n", done.display()));
    for (n, json) in ["", "--json"].into_iter().enumerate() {
        // `true` reads neither of the two outputs.
        let run = format!("{FIEFDOM} {json} --root \"$ROOT\" run --batch b{n} {jobs}");
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{{ {run}; echo $? > {jobs}.code; }} 2>&1 | true")).env("ROOT", &fief.root);
        let ran = Started::new(command).end();
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
        until("the end of the run", || (lines(Path::new(&format!("{jobs}.code"))) == ["1"]).then_some(()));
        std::fs::remove_file(format!("{jobs}.code")).expect("removed");
        assert_eq!(lines(&done).len(), 2 * (n + 1));
        assert_eq!(
            (fief.status(&format!("b{n}-1")), fief.status(&format!("b{n}-2"))),
            ("succeeded".into(), "failed".into())
        );
    }
}

#[test]
fn a_file_of_jobs_that_is_wrong_starts_nothing() {
    let fief = Fief::new();
    let begun = fief.beside("begun");
    let good = format!("echo x > {}\n", begun.display());
    let deep = format!("{{\"cmd\":\"true\",\"tags\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
    let long = format!("{{\"cmd\":\"true\",\"tags\":{{\"t\":\"{}\"}}}}", "x".repeat(300));
    let many: BTreeMap<String, String> = (0..70).map(|n| (format!("t{n}"), String::new())).collect();
    let many = json!({"cmd": "true", "id": "many", "tags": many}).to_string();
    let cases: &[(&str, &[&str])] = &[
        ("{\"cmd\": }\ntrue\n{oops\n", &["line 2", "line 4", "nothing was started"]),
        (r#"{"cmd":"true","id":"Not Valid"}"#, &["line 2", "Not Valid", "a-z"]),
        (r#"{"cmd":"true","retries":3}"#, &["line 2", "retries", "unknown field"]),
        (r#"{"id":"x"}"#, &["line 2", "cmd"]),
        ("{\"cmd\":\"true\",\"id\":\"x\"}\n{\"cmd\":\"true\",\"id\":\"x\"}", &["line 3", "\"x\"", "line 2"]),
        (r#"{"cmd":"true","env":{"A B":"1"}}"#, &["line 2", "A B"]),
        (r#"{"cmd":"true","env":{"FIEFDOM_INSTANCE_ID":"1"}}"#, &["line 2", "FIEFDOM_INSTANCE_ID"]),
        (&deep, &["line 2"]),
        ("\u{0}", &["line 2", "NUL"]),
        (&long, &["\"b-2\"", "256"]),
        (&many, &["\"many\"", "64"]),
        // What would be found only in the middle of the run must be found before it.
        (r#"{"cmd":"true","tags":{"batch":"x"}}"#, &["line 2", "\"batch\""]),
        (r#"{"cmd":"true","id":"b"}"#, &["\"b\"", "batch"]),
        (r#"{"cmd":"true","id":"b-1"}"#, &["\"b-1\""]),
    ];
    for (bad, words) in cases {
        let jobs = fief.write("jobs", format!("{good}{bad}"));
        let ran = fief.run(["run", "--batch", "b", &jobs]);
        ran.failed(2, words);
        assert!(!ran.err.contains("resume"), "there is nothing to go on with: {ran:?}");
        assert!(!fief.root.exists() && !begun.exists(), "{ran:?}");
    }
    let directory = fief.beside("").display().to_string();
    let nothing: &[(&str, &[u8], &[&str])] = &[
        ("-", b"", &["standard input", "no job"]),
        ("-", b"\n# only this\n", &["no job"]),
        ("-", b"\xff\n", &["line 1", "UTF-8"]),
        ("/no/such/file", b"", &["/no/such/file", "No such file", "name a file"]),
        (&directory, b"", &[&directory, "directory", "name a file"]),
    ];
    for (file, input, words) in nothing {
        fief.run_with_input(["run", file], input).failed(2, words);
        assert!(!fief.root.exists(), "{file}");
    }
    let jobs = fief.write("jobs", &good);
    for (option, value, word) in [
        ("-j", "0", "1.."),
        ("-j", "x", "x"),
        ("--retries", "many", "many"),
        ("--timeout", "5 parsecs", "90s"),
        ("--timeout", "0", "90s"),
        ("--batch", "No", "a-z"),
    ] {
        fief.run(["run", option, value, &jobs]).failed(2, &[option, word]);
        assert!(!fief.root.exists() && !begun.exists(), "{option} {value}");
    }
}

#[test]
fn a_batch_never_takes_over_an_instance_that_exists() {
    let fief = Fief::new();
    fief.ok(["create", "mine", "--state", r#"{"n":1}"#]);
    let before = fief.tree();
    let jobs = fief.write("jobs", "true\n{\"id\":\"mine\",\"cmd\":\"true\"}\n");
    fief.run(["run", "--batch", "b", &jobs]).failed(2, &["\"mine\"", "exists already"]);
    fief.run(["run", "--batch", "mine", &jobs]).failed(2, &["\"mine\""]);
    assert_eq!(fief.tree(), before);
}

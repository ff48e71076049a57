//! The examples, as the processes that a reader starts.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
/// What only the tool can show.
#[cfg(feature = "cli")]
mod demonstration;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, TestResult};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Cargo builds the examples for a plain `cargo test`, next to the directory of the tests. For
/// `cargo test --test examples` it does not: that takes them as they were last built.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.parent().and_then(Path::parent).expect("target/<profile>/deps").join("examples").join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --examples`, or all of `cargo test`", path.display());
    Command::new(path)
}

/// Runs an example to its end, and returns the lines that it printed.
fn lines_of(name: &str, root: &Path) -> TestResult<Vec<String>> {
    let output = example(name).arg(root).output()?;
    assert!(output.status.success(), "{name}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn record(root: &Path, id: &str) -> TestResult<Value> {
    let path = root.join("instances").join(id).join("instance.json");
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// The types of the events of an instance, in their order; their numbers have no gap.
fn event_kinds(root: &Path, id: &str) -> TestResult<Vec<String>> {
    let text = std::fs::read_to_string(root.join("instances").join(id).join("events/events.jsonl"))?;
    let mut kinds = Vec::new();
    for (line, seq) in text.lines().zip(1_u64..) {
        let event: Value = serde_json::from_str(line)?;
        assert_eq!(event["seq"], seq);
        kinds.push(event["type"].as_str().ok_or("a type")?.to_owned());
    }
    Ok(kinds)
}

#[test]
fn the_job_runner_answers_every_query_once() -> TestResult {
    let root = tempfile::tempdir()?;
    let first = lines_of("job_runner", root.path())?;
    assert_eq!(first.iter().filter(|line| *line == "making the index").count(), 1, "{first:#?}");
    assert!(first.contains(&"query-storm: Succeeded at attempt 1".into()), "{first:#?}");
    assert!(first.contains(&"query-wire: Succeeded at attempt 2".into()), "{first:#?}");
    assert_eq!(first.last().map(String::as_str), Some("6 of 6 succeeded, 0 of them before"));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jobs/data/story.txt");
    let text = std::fs::read_to_string(path)?;
    let storm: Vec<usize> =
        text.lines().zip(1..).filter(|(line, _)| line.contains("storm")).map(|(_, number)| number).collect();
    let on_disk = record(root.path(), "query-storm")?;
    assert_eq!((&on_disk["status"], &on_disk["kind"]), (&json!("succeeded"), &json!("query")));
    assert_eq!(on_disk["state"], json!({ "word": "storm", "lines": storm }));
    assert_eq!(event_kinds(root.path(), "query-storm")?, ["job.started", "query.answered", "job.succeeded"]);
    let retried = ["job.started", "job.retry", "job.started", "query.answered", "job.succeeded"];
    assert_eq!(event_kinds(root.path(), "query-wire")?, retried);
    assert_eq!(record(root.path(), "words")?["status"], "succeeded");

    let second = lines_of("job_runner", root.path())?;
    assert_eq!(second.iter().filter(|line| line.contains(": AlreadySucceeded at attempt")).count(), 6, "{second:#?}");
    assert_eq!(second.last().map(String::as_str), Some("6 of 6 succeeded, 6 of them before"));
    assert_eq!(record(root.path(), "query-storm")?["attempt"], 1, "it was not run again");
    assert_eq!(event_kinds(root.path(), "query-wire")?, retried);
    Ok(())
}

#[test]
fn the_agent_session_goes_on_where_it_was() -> TestResult {
    let root = tempfile::tempdir()?;
    let id = "ledger-talk";
    let output = root.path().join("instances").join(id).join("output");

    let first = lines_of("agent_session", root.path())?;
    assert_eq!(first[0], "0 of 4 questions are answered");
    assert_eq!(first[1], r#"  1 turn.began {"question":"Who keeps the ledger?"}"#);
    assert!(first[first.len() - 1].starts_with("the session is waiting in "), "{first:#?}");
    let waiting = record(root.path(), id)?;
    assert_eq!((&waiting["status"], &waiting["status_reason"]), (&json!("waiting"), &json!("for the next run")));
    assert_eq!(waiting["state"], json!(["answer-1.md", "answer-2.md"]));
    assert_eq!(
        std::fs::read_to_string(output.join("answer-1.md"))?,
        "# Who keeps the ledger?\n\nThe keeper of the harbour.\n"
    );
    assert!(!output.join("answer-3.md").exists(), "the third answer belongs to the second run");

    let second = lines_of("agent_session", root.path())?;
    assert_eq!(second[0], "2 of 4 questions are answered");
    let history = 1..first.len() - 1;
    assert_eq!(second[history.clone()], first[history], "the history comes before what is new");
    assert!(second[second.len() - 1].starts_with("the session is succeeded in "), "{second:#?}");
    let done = record(root.path(), id)?;
    assert_eq!((&done["status"], &done["attempt"], &done["epoch"]), (&json!("succeeded"), &json!(2), &json!(2)));
    for artifact in done["state"].as_array().ok_or("a list")? {
        assert!(output.join(artifact.as_str().ok_or("a name")?).is_file(), "{artifact} is missing");
    }
    let kinds = event_kinds(root.path(), id)?;
    assert_eq!(done["last_event_seq"], kinds.len());
    // What was printed live is what is on disk: one line for each, between the first and the last.
    let printed: Vec<&str> =
        second[1..second.len() - 1].iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(printed, kinds);
    assert_eq!(kinds.iter().filter(|kind| *kind == "turn.ended").count(), 4);

    let third = lines_of("agent_session", root.path())?;
    assert_eq!((third.len(), third[0].as_str()), (2, "4 of 4 questions are answered"));
    assert_eq!(record(root.path(), id)?["revision"], done["revision"], "there was nothing left to do");
    Ok(())
}

/// The person answers with the tool.
#[cfg(feature = "cli")]
#[test]
fn the_approval_waits_for_a_person_over_several_runs() -> TestResult {
    let root = tempfile::tempdir()?;
    let asks = "it waits for: fiefdom answer release-7 deploy '\"yes\"'";
    assert_eq!(lines_of("approval", root.path())?, ["building", asks]);
    let reminded = ["reminder for release-7: nobody has answered yet", "built in an earlier run: \"web:7\"", asks];
    assert_eq!(lines_of("approval", root.path())?, reminded);
    assert_eq!(record(root.path(), "release-7")?["status"], "running");

    let mut answer = Command::new(env!("CARGO_BIN_EXE_fiefdom"));
    answer.arg("--root").arg(root.path()).args(["answer", "release-7", "deploy", "\"yes\""]);
    assert!(answer.status()?.success());
    let third = lines_of("approval", root.path())?;
    assert_eq!(third[third.len() - 2..], ["built in an earlier run: \"web:7\"", "the answer is \"yes\""]);
    assert_eq!(lines_of("approval", root.path())?, ["release-7 is deployed"]);
    let kinds = event_kinds(root.path(), "release-7")?;
    assert_eq!(kinds, ["checkpoint", "input.requested", "input.answered", "release.decided"]);
    Ok(())
}

#[test]
fn the_housekeeping_exports_deletes_and_brings_back() -> TestResult {
    let dir = tempfile::tempdir()?;
    let lines = lines_of("housekeeping", &dir.path().join("root"))?;
    assert_eq!(lines[..2], ["job-2 is at revision 2", "exported job-1 at revision 1"]);
    assert_eq!(lines[2], "in use: 3 of 3");
    assert_eq!(lines[3], "job-1 is new, job-1 is succeeded, job-2 is new, job-2 is succeeded");
    assert_eq!(lines[4..6], ["deleted job-1, job-2, job-3", "job-1-again comes from job-1"]);
    assert_eq!(lines[6..].len(), 2, "{lines:#?}");
    let result = dir.path().join("root/instances/job-1-again/output/result.txt");
    assert_eq!(std::fs::read_to_string(result)?, "the result of job 1\n");
    Ok(())
}

#[test]
fn the_state_of_an_older_program_is_brought_up_to_date() -> TestResult {
    let root = tempfile::tempdir()?;
    let first = lines_of("migrate_state", root.path())?;
    assert_eq!(first.iter().filter(|line| line.ends_with("as version 1")).count(), 3, "{first:#?}");
    let old = record(root.path(), "bread")?;
    assert_eq!((&old["schema_version"], &old["state"]["minutes"]), (&json!(1), &json!("180")));
    let toast = std::fs::read(root.path().join("instances/toast/instance.json"))?;

    let second = lines_of("migrate_state", root.path())?;
    assert_eq!(second[0], r#"soup takes 2700 seconds and is ["quick"]"#);
    assert!(second.contains(&"bread 1 -> 3: Migrated".into()), "{second:#?}");
    assert!(second.contains(&"soup 3 -> 3: Current".into()), "{second:#?}");
    assert!(second.iter().any(|line| line.starts_with("toast 1 -> 3: Failed(")), "{second:#?}");
    let new = record(root.path(), "bread")?;
    assert_eq!(new["schema_version"], 3);
    assert_eq!(new["state"], json!({ "title": "Bread", "seconds": 10800, "tags": [] }));
    assert_eq!(std::fs::read(root.path().join("instances/toast/instance.json"))?, toast, "it is as it was");
    Ok(())
}

#[test]
fn the_preferences_of_a_user_survive_a_crash_and_an_upgrade() -> TestResult {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("config/preferences.json");
    for run in 1..=2 {
        let lines = lines_of("user_state", &path)?;
        assert_eq!(lines[0], r#"the theme is "dark""#);
        assert_eq!(lines.iter().filter(|line| *line == "a process ended, with a crash").count(), 1, "{lines:#?}");
        let opened: Vec<_> = (0..5).map(|n| format!("project-{n} was opened {} times", 4 * run)).collect();
        assert_eq!(lines[5..], opened, "an update of the process that crashed counts");
    }
    let on_disk: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!((&on_disk["schema_version"], &on_disk["state"]["theme"]), (&json!(2), &json!("dark")));
    Ok(())
}

#[test]
fn the_batch_that_crashes_half_way_is_finished_by_the_next_run() -> TestResult {
    let root = tempfile::tempdir()?;
    let crashed = example("batch_resume").arg(root.path()).output()?;
    assert!(!crashed.status.success(), "{crashed:?}");
    let said = String::from_utf8(crashed.stdout)?;
    assert!(said.contains("0 of 8 are done") && said.ends_with("The ledger: crashing\n"), "{said}");

    let second = lines_of("batch_resume", root.path())?;
    assert_eq!(second[0], "3 of 8 are done, 1 interrupted");
    assert_eq!(second[1], "The ledger: attempt 2", "it is the first that is taken");
    assert_eq!(second.iter().filter(|line| line.ends_with(": attempt 1")).count(), 4, "{second:#?}");
    assert!(second.contains(&"chapter 4: \"The ledger in 44 words\"".into()), "{second:#?}");
    assert_eq!(second.last().map(String::as_str), Some("done: true, tokens: 36600"));
    assert_eq!(record(root.path(), "chapters")?["status"], "succeeded");

    let third = lines_of("batch_resume", root.path())?;
    assert_eq!(third[0], "8 of 8 are done, 0 interrupted");
    assert!(!third.iter().any(|line| line.contains(": attempt ")), "nothing is left to do: {third:#?}");
    Ok(())
}

/// The web service as a process; it is killed when a test fails before its end.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(root: &Path) -> TestResult<Self> {
        let mut child = example("http_service").arg(root).arg("0").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        // Ends with the first line, or when the process does.
        BufReader::new(child.stdout.take().ok_or("its output")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://").ok_or_else(|| format!("it said {line:?}"))?;
        Ok(Self { address: address.to_owned(), child })
    }

    /// One request; returns the status and the body.
    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> TestResult<(u16, Value)> {
        let body = body.map_or_else(String::new, Value::to_string);
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP: {answer:?}"))?;
        let status = head.split(' ').nth(1).ok_or("a status")?.parse()?;
        Ok((status, if body.is_empty() { Value::Null } else { serde_json::from_str(body)? }))
    }

    fn get(&self, path: &str) -> TestResult<(u16, Value)> {
        self.request("GET", path, None)
    }

    fn interrupt(mut self) -> TestResult {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "{status}");
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_web_service_keeps_the_notes_of_its_tenants() -> TestResult {
    let root = tempfile::tempdir()?;
    let service = Service::start(root.path())?;
    assert_eq!(service.get("/tenants/ada")?.0, 404);
    let (status, body) = service.get("/tenants/..%2F..%2Fetc")?;
    assert_eq!(status, 400);
    assert!(body["error"].as_str().is_some_and(|text| text.contains("is not a valid instance id")), "{body}");
    let (status, body) = service.request("POST", "/tenants/Ada/notes", Some(&json!("x")))?;
    assert_eq!((status, body["error"].is_string()), (400, true));

    // Five tenants, each of eight at once: the first note of each makes it, whichever that is.
    let tenants = ["ada", "bela", "cora", "dario", "edda"];
    std::thread::scope(|scope| {
        let posts = tenants.iter().flat_map(|tenant| (0..8).map(move |number| (tenant, number)));
        let posts: Vec<_> = posts
            .map(|(tenant, number)| {
                let (path, note) = (format!("/tenants/{tenant}/notes"), json!(format!("{tenant} {number}")));
                let service = &service;
                scope.spawn(move || service.request("POST", &path, Some(&note)))
            })
            .collect();
        for post in posts {
            assert_eq!(post.join().expect("no panic")?, (201, Value::Null));
        }
        TestResult::Ok(())
    })?;
    let (status, notes) = service.get("/tenants/cora")?;
    assert_eq!((status, notes["tenant"].as_str()), (200, Some("cora")));
    service.interrupt()?;

    for tenant in tenants {
        let mut on_disk: Vec<String> = serde_json::from_value(record(root.path(), tenant)?["state"].clone())?;
        on_disk.sort();
        assert_eq!(on_disk, (0..8).map(|number| format!("{tenant} {number}")).collect::<Vec<_>>());
    }
    assert_eq!(std::fs::read_dir(root.path().join("instances"))?.count(), tenants.len(), "no other was made");

    let service = Service::start(root.path())?;
    assert_eq!(service.get("/tenants/cora")?, (200, notes));
    assert_eq!(service.request("POST", "/tenants/cora/notes", Some(&json!("later")))?.0, 201);
    let (_, notes) = service.get("/tenants/cora")?;
    assert_eq!(notes["notes"].as_array().map(Vec::len), Some(9));
    service.interrupt()
}

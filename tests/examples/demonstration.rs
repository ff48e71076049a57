//! The demonstration of the README, by its own command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::common::TestResult;
use super::{event_kinds, record};

/// Runs the tool on the jobs of the README.
fn demonstrate(root: &Path, how: &[&str]) -> TestResult<Output> {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jobs");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fiefdom"));
    command.env("JOBS_DATA", jobs.join("data")).arg("--json").arg("--root").arg(root);
    Ok(command.arg("run").args(how).arg(jobs.join("jobs.txt")).output()?)
}

#[test]
fn of_the_demonstration_exactly_those_fail_that_shall() -> TestResult {
    let root = tempfile::tempdir()?;
    let output = demonstrate(root.path(), &["--timeout", "2s", "--retries", "1", "-j", "4"])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let documents =
        serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<Vec<Value>, _>>()?;
    let [begun, jobs @ .., summary] = &documents[..] else { panic!("{documents:#?}") };

    let failed: BTreeMap<&str, &str> = jobs
        .iter()
        .filter(|job| job["outcome"] != "succeeded")
        .map(|job| (job["job"].as_str().unwrap_or("?"), job["error"].as_str().unwrap_or("?")))
        .collect();
    let expected = [
        ("bad-quantity", "exit code 1: line 518: quantity -2 in O00517"),
        ("broken-link", "exit code 3: returns.html: shipping.html is missing"),
        ("checksum-mismatch", "exit code 1: "), // what follows is in the words of sha256sum
        ("missing-file", "exit code "),         // what follows is in the words of the shell
        ("wait-for-upload", "it took longer than 2s"),
    ];
    assert_eq!(failed.keys().collect::<Vec<_>>(), expected.iter().map(|(id, _)| id).collect::<Vec<_>>(), "{failed:#?}");
    for (id, error) in expected {
        assert!(failed[id].starts_with(error), "{id}: {}", failed[id]);
        assert_eq!(record(root.path(), id)?["status_reason"], failed[id]);
        assert_eq!(record(root.path(), id)?["attempt"], 2, "{id} was tried again");
    }
    let total = 60;
    assert_eq!((begun["jobs"].as_u64(), jobs.len()), (Some(total), 60));
    let count = |what: &str| summary[what].as_u64();
    assert_eq!((count("total"), count("succeeded")), (Some(total), Some(total - 5)));
    assert_eq!((count("failed"), count("unfinished")), (Some(5), Some(0)));

    let flaky = jobs.iter().find(|job| job["job"] == "flaky").ok_or("there is a flaky job")?;
    assert_eq!((flaky["outcome"].as_str(), flaky["attempt"].as_u64()), (Some("succeeded"), Some(2)));
    let kinds = ["job.started", "job.spawned", "job.retry", "job.started", "job.spawned", "job.succeeded"];
    assert_eq!(event_kinds(root.path(), "flaky")?, kinds);

    let instances = root.path().join("instances");
    let file = |id: &str, name: &str| -> PathBuf { instances.join(id).join(name) };
    assert!(file("site-archive", "output/site.tar.gz").is_file());
    let sums = std::fs::read_to_string(file("site-sums", "output/SHA256SUMS"))?;
    assert_eq!(sums.lines().count(), 6);
    let log = std::fs::read_to_string(file("checksums", "logs/stdout.log"))?;
    assert_eq!(log.lines().filter(|line| line.ends_with(": OK")).count(), 7, "{log}");
    Ok(())
}

//! strace on one thread of another process, from a moment on: to see its system calls, to kill it
//! at one of them, or to have one fail.
#![allow(dead_code, missing_docs)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::TestResult;

/// Says so, and returns true, when strace cannot be used here. With `FIEFDOM_TEST_REQUIRE_ALL=1`
/// that is a failure.
pub(crate) fn is_missing() -> TestResult<bool> {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if traced.is_ok_and(|status| status.success()) {
        return Ok(false);
    }
    if std::env::var("FIEFDOM_TEST_REQUIRE_ALL").is_ok_and(|value| value == "1") {
        return Err("strace is missing, or may not trace".into());
    }
    let _ = writeln!(std::io::stderr(), "skipped: strace is missing, or may not trace");
    Ok(true)
}

/// A running strace. Its end lets the thread go on undisturbed.
pub(crate) struct Strace {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Strace {
    /// Attaches to a thread, and to those alone that are named. The expressions are those of `-e`.
    pub(crate) fn attach(threads: &[u32], expressions: &[&str]) -> TestResult<Self> {
        let output = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.arg("-o").arg(output.path()).args(["-y", "-s", "200"]);
        for expression in expressions {
            command.args(["-e", expression]);
        }
        for thread in threads {
            command.args(["-p", &thread.to_string()]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().ok_or("no output")?);
        let strace = Self { child, output };
        let (mut attached, mut line) = (0, String::new());
        while attached < threads.len() {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                return Err(format!("strace did not attach to {threads:?}").into());
            }
            attached += usize::from(line.contains(" attached"));
        }
        // Nobody reads what else it says: it is little.
        strace.keep_reading(said)
    }

    fn keep_reading(self, mut said: BufReader<std::process::ChildStderr>) -> TestResult<Self> {
        std::thread::Builder::new().spawn(move || std::io::copy(&mut said, &mut std::io::sink()))?;
        Ok(self)
    }

    /// Detaches, and returns what it saw: a line for each call, with the thread in front when there
    /// are several.
    pub(crate) fn end(mut self) -> TestResult<Vec<String>> {
        self.stop();
        Ok(std::fs::read_to_string(self.output.path())?.lines().map(str::to_owned).collect())
    }

    fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How many of these calls were made to fail, or to kill.
pub(crate) fn fired(trace: &[String]) -> usize {
    trace.iter().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
}

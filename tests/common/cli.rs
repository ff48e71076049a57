//! The command-line tool as its users meet it: a process, its output, its exit code, and its files.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

pub(crate) const FIEFDOM: &str = env!("CARGO_BIN_EXE_fiefdom");

/// Long enough for a busy machine, short enough to see that something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something has come true, and returns it.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A root that does not exist yet, beside a place for what the jobs of a test write.
pub(crate) struct Fief {
    temp: tempfile::TempDir,
    pub root: PathBuf,
}

impl Fief {
    pub(crate) fn new() -> Self {
        // Canonical, because a job is told its directory in that form; and not easy for a shell.
        let temp = tempfile::tempdir().expect("a directory");
        let root = temp.path().canonicalize().expect("a path").join("the root's");
        Self { temp, root }
    }

    /// A path outside the root.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.root.parent().expect("a parent").join(name)
    }

    /// A file outside the root.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.beside(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("utf-8").to_owned()
    }

    pub(crate) fn instance(&self, id: &str) -> PathBuf {
        self.root.join("instances").join(id)
    }

    /// The record, as a program of any language reads it.
    pub(crate) fn record(&self, id: &str) -> Value {
        let text = std::fs::read(self.instance(id).join("instance.json")).expect("a record");
        serde_json::from_slice(&text).expect("JSON")
    }

    pub(crate) fn status(&self, id: &str) -> String {
        self.record(id)["status"].as_str().expect("a status").to_owned()
    }

    /// The types of the events.
    pub(crate) fn events(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.instance(id).join("events/events.jsonl")).expect("events");
        let kind = |line| serde_json::from_str::<Value>(line).expect("JSON")["type"].as_str().map(str::to_owned);
        text.lines().map(|line| kind(line).expect("a type")).collect()
    }

    /// `fiefdom --root <root> <args>`.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = bare();
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    /// Runs it to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Started::new(self.command(args)).end()
    }

    pub(crate) fn run_with_input<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: impl AsRef<[u8]>,
    ) -> Ran {
        let mut started = Started::with_stdin(self.command(args), Stdio::piped());
        started.child.stdin.take().expect("a pipe").write_all(input.as_ref()).expect("written");
        started.end()
    }

    /// A command in its text form, which must succeed.
    pub(crate) fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(args);
        ran.succeeded_silently();
        ran.out
    }

    /// A command with `--json`, which must succeed and print one document.
    pub(crate) fn json<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(["--json"]);
        command.args(args);
        let ran = Started::new(command).end();
        ran.succeeded_silently();
        let mut lines = ran.json_lines();
        assert_eq!(lines.len(), 1, "{ran:?}");
        lines.remove(0)
    }

    /// The processes that belong to a job of this root.
    pub(crate) fn survivors(&self) -> Vec<u32> {
        let mark = format!("FIEFDOM_INSTANCE_DIR={}", self.root.display());
        let processes = std::fs::read_dir("/proc").expect("/proc");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            // A process without memory (a zombie) has no environment any more.
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&b| b == 0).any(|variable| variable.starts_with(mark.as_bytes()))
        };
        pids.filter(ours).collect()
    }

    /// Every path under the root, with the bytes of the files.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.root.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(&dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    waiting.push(path.clone());
                    found.insert(path, Vec::new());
                } else {
                    let bytes = bytes_of(&path);
                    found.insert(path, bytes);
                }
            }
        }
        found
    }
}

impl Drop for Fief {
    fn drop(&mut self) {
        // Only a test that failed leaves any; they would run for ever.
        for pid in self.survivors() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// `fiefdom` without a root, and without what the environment of the tests may say.
pub(crate) fn bare() -> Command {
    let mut command = Command::new(FIEFDOM);
    command.env_remove("FIEFDOM_DATA_DIR").env_remove("HOME");
    command
}

/// What a process printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// Checks that it succeeded and had nothing to say on standard error, but that the disk is slow just
    /// now: no test is about that.
    #[track_caller]
    pub(crate) fn succeeded_silently(&self) {
        let said: Vec<&str> = self.err.lines().filter(|line| !line.contains("WARN a commit took long")).collect();
        assert_eq!((self.code, said), (Some(0), Vec::new()), "{self:?}");
    }

    /// Checks that it failed as it should: with this code, with nothing on standard output, and with
    /// all of these words on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// A process under way. It leads a group of its own, as a shell would make it.
pub(crate) struct Started {
    pub child: Child,
    out: Receiver<Vec<u8>>,
    err: Receiver<Vec<u8>>,
    pub seen: String,
}

impl Started {
    pub(crate) fn new(command: Command) -> Self {
        Self::with_stdin(command, Stdio::null())
    }

    fn with_stdin(mut command: Command, stdin: Stdio) -> Self {
        use std::os::unix::process::CommandExt as _;
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the program starts");
        let out = pump(child.stdout.take().expect("a pipe"));
        let err = pump(child.stderr.take().expect("a pipe"));
        Self { child, out, err, seen: String::new() }
    }

    /// Waits until it has printed this on standard output.
    pub(crate) fn prints(&mut self, text: &str) {
        until(&format!("{text:?} to be printed"), || {
            while let Ok(bytes) = self.out.try_recv() {
                self.seen += &String::from_utf8(bytes).expect("UTF-8");
            }
            self.seen.contains(text).then_some(())
        });
    }

    /// What the terminal does for Ctrl-C: the whole foreground group gets the signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process_group(pid, signal).expect("signalled");
    }

    pub(crate) fn status(&mut self) -> ExitStatus {
        until("the process to end", || self.child.try_wait().expect("waited"))
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let code = self.status().code();
        let rest = |from: &Receiver<Vec<u8>>| {
            let mut bytes = Vec::new();
            // A process that it left behind would hold the pipe open: that is a failure too.
            loop {
                match from.recv_timeout(DEADLINE) {
                    Ok(more) => bytes.extend(more),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break String::from_utf8(bytes).expect("UTF-8"),
                    Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody holds the pipe of a process that ended"),
                }
            }
        };
        Ran { code, out: std::mem::take(&mut self.seen) + &rest(&self.out), err: rest(&self.err) }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads a pipe, so that the process never waits for us. Whole lines are handed on.
fn pump(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        let mut line = Vec::new();
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            line.extend_from_slice(&bytes[..read]);
            let whole = line.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let _ = send.send(line.drain(..whole).collect());
        }
        let _ = send.send(line);
    });
    receive
}

/// What is in a file. The socket of a process that has the root open holds nothing.
fn bytes_of(path: &Path) -> Vec<u8> {
    use std::os::unix::fs::FileTypeExt as _;
    let is_socket = std::fs::symlink_metadata(path).expect("a file").file_type().is_socket();
    if is_socket { Vec::new() } else { std::fs::read(path).expect("bytes") }
}

/// Whether any file under `dir` holds these bytes.
pub(crate) fn holds(dir: &Path, bytes: &[u8]) -> bool {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.any(|path| {
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let text = bytes_of(&path);
        text.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// The lines of a file, none if it is not there yet.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Runs what was printed as the way to go on, as a person does who pastes it into a shell.
pub(crate) fn paste(printed: &str) -> Ran {
    let at = printed.rfind("fiefdom --root").expect("a command to go on with");
    let mut shell = Command::new("sh");
    let programs = Path::new(FIEFDOM).parent().expect("a directory").display();
    let path = format!("{programs}:{}", std::env::var("PATH").expect("a PATH"));
    shell.arg("-c").arg(printed[at..].lines().next().expect("a line")).env("PATH", path);
    Started::new(shell).end()
}

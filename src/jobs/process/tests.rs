//! Tests with real processes: of running jobs here, of the helper process, of dead
//! runners and of speed in the modules below.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

mod guardian;
mod orphans;
mod speed;

/// Far longer than anything here takes, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// No processes.
const NOBODY: [u32; 0] = [];

/// A directory of one test, removed at its end. Jobs write to `out` in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fiefdom-process-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn spec(&self, command: &str) -> CommandSpec {
        let path = self.0.join("out");
        let out = File::options().create(true).append(true).open(path).unwrap();
        CommandSpec {
            command: command.into(),
            cwd: self.0.clone(),
            env: vec![("GREETING".into(), "hello there".into())],
            stdout: out.try_clone().unwrap(),
            stderr: out,
        }
    }

    /// What the jobs have written.
    fn output(&self) -> String {
        fs::read_to_string(self.0.join("out")).unwrap()
    }

    async fn start(&self, guardian: &Guardian, command: &str) -> Running {
        spawn(&self.spec(command)).unwrap().open(guardian).await.unwrap()
    }

    /// Starts a job and waits until it has written the word `ready`.
    async fn start_ready(&self, guardian: &Guardian, command: &str) -> Running {
        let job = self.start(guardian, command).await;
        eventually("the job is ready", || self.output().contains("ready")).await;
        job
    }

    /// Runs a job to its end.
    async fn run(&self, command: &str) -> Exit {
        let guardian = Guardian::start().unwrap();
        within(self.start(&guardian, command).await.wait()).await.unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Polls until the condition holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The result of a future that must not hang.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it hangs")
}

/// The letter of a process's state, `None` if there is none of that id.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// All living members of a group.
fn members(group: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let of_group = |&pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let group_of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2));
        group_of == Some(group.to_string().as_str())
    };
    pids.filter(of_group).filter(|&pid| lives(pid)).collect()
}

fn kill_group(group: u32) {
    let _ = rustix::process::kill_process_group(leader::pid_of(group).unwrap(), Signal::KILL);
}

/// Groups that a failed test must not leave behind; killed when dropped.
struct Groups(Vec<u32>);

impl Drop for Groups {
    fn drop(&mut self) {
        // After a test that went well the ids may be free, or others' by now.
        let left = self.0.iter().filter(|&&group| !members(group).is_empty());
        left.for_each(|&group| kill_group(group));
    }
}

fn exited(code: i32) -> Exit {
    Exit { code: Some(code), signal: None }
}

fn killed(signal: Signal) -> Exit {
    Exit { code: None, signal: Some(signal.as_raw()) }
}

/// Starts processes at two depths and says so; the innermost may come a moment later.
const FAMILY: &str = "sleep 1000 & (sleep 1000 & sleep 1000) & echo ready;";

#[tokio::test]
async fn exit_codes_and_signals_are_reported() {
    let scratch = Scratch::new();
    assert_eq!(scratch.run("true").await, exited(0));
    assert_eq!(scratch.run("exit 3").await, exited(3));
    assert_eq!(scratch.run("/no/such/program").await, exited(127));
    assert_eq!(scratch.run("kill -s SEGV $$").await, killed(Signal::SEGV));
    assert_eq!(scratch.run("sh -c 'kill -s KILL $$'").await, exited(128 + 9));
    assert_eq!(scratch.run("if").await, exited(2));
}

#[tokio::test]
async fn a_command_sees_its_environment_and_nothing_of_the_gate() {
    let scratch = Scratch::new();
    scratch.run("# first line\necho \"$GREETING|$#|$*|${FIEFDOM_GATE-unset}\"\npwd").await;
    let cwd = fs::canonicalize(&scratch.0).unwrap();
    assert_eq!(scratch.output(), format!("hello there|0||unset\n{}\n", cwd.display()));
}

#[tokio::test]
async fn standard_input_is_dev_null_and_no_file_of_the_runner_is_inherited() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut other = scratch.start(&guardian, "sleep 1000").await;
    let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // What the runner itself has inherited it passes on, as any program does.
    let closed_at_exec = |fd: &str| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| i64::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 != 0)
    };
    let ours: HashSet<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| closed_at_exec(path.file_name().unwrap().to_str().unwrap()))
        .filter_map(|path| Some(fs::read_link(path).ok()?.to_str()?.to_owned()))
        // All epoll and pidfd descriptors share one name each.
        .filter(|target| target.starts_with("pipe:") || target.starts_with("socket:"))
        .collect();
    assert!(ours.len() >= 2, "the pipe of the guardian and the socket: {ours:?}");

    let mut job = scratch.start(&guardian, "ls -l /proc/self/fd").await;
    assert_eq!(within(job.wait()).await.unwrap(), exited(0));
    within(other.terminate(Duration::ZERO)).await.unwrap();
    let output = scratch.output();
    assert!(output.contains(" 0 -> /dev/null\n"), "{output}");
    assert!(!output.contains("pidfd") && !output.contains("eventpoll"), "{output}");
    assert!(ours.iter().all(|target| !output.contains(target.as_str())), "{ours:?} in {output}");
}

#[tokio::test]
async fn a_command_never_runs_when_its_gate_is_closed() {
    let scratch = Scratch::new();
    let gated = spawn(&scratch.spec("touch ran")).unwrap();
    let (pid, id) = (gated.pid(), gated.group_id().unwrap());
    assert_eq!((id.pgid, Some(id.start_time)), (pid, gated.start_time));
    assert!(lives(pid));
    drop(gated);
    eventually("the shell is reaped", || state(pid).is_none()).await;

    // As when the runner dies: the pipe is closed but nobody kills.
    let Gated { gate, leader, .. } = spawn(&scratch.spec("touch ran")).unwrap();
    drop(gate);
    let mut leader = leader;
    eventually("the shell exits", || leader.has_exited().unwrap()).await;
    assert_eq!(leader.reap().unwrap(), exited(125));
    assert!(!scratch.0.join("ran").exists());
}

#[tokio::test]
async fn opening_the_gate_of_a_killed_shell_is_an_error() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let gated = spawn(&scratch.spec("touch ran")).unwrap();
    gated.leader.signal(Signal::KILL).unwrap();
    eventually("the shell is dead", || !lives(gated.pid())).await;
    let error = gated.open(&guardian).await.unwrap_err();
    assert!(error.to_string().contains("before it was let go"), "{error}");
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_an_error_that_says_why() {
    let scratch = Scratch::new();
    let mut spec = scratch.spec("true");
    spec.cwd = Path::new("/no/such/directory").into();
    let error = spawn(&spec).unwrap_err();
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
    assert_eq!(spawn(&scratch.spec("a\0b")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_a_job_leaves_running_is_gone_when_its_shell_has_exited() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut job = scratch.start(&guardian, &format!("{FAMILY} exit 4")).await;
    assert_eq!(within(job.wait()).await.unwrap(), exited(4));
    assert_eq!(members(job.pid()), NOBODY);
    assert!(!job.has_leftovers());
    // Once over, it stays so.
    assert_eq!(job.wait().await.unwrap(), exited(4));
    assert_eq!(job.terminate(DEADLINE).await.unwrap(), exited(4));
}

#[tokio::test]
async fn terminating_a_job_ends_its_whole_group_without_waiting_for_the_grace() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut job = scratch.start_ready(&guardian, &format!("{FAMILY} wait")).await;
    // The subshell may still be on its way to the second of its two.
    eventually("the family is there", || members(job.pid()).len() >= 4).await;
    let exit = within(job.terminate(DEADLINE * 10)).await.unwrap();
    assert_eq!(exit, killed(Signal::TERM));
    assert_eq!(members(job.pid()), NOBODY);
}

#[tokio::test]
async fn a_job_that_ignores_sigterm_is_killed_after_the_grace() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let command = "trap '' TERM; echo ready; while :; do sleep 1000; done";
    let mut job = scratch.start_ready(&guardian, command).await;
    let (begun, grace) = (Instant::now(), Duration::from_millis(300));
    assert_eq!(within(job.terminate(grace)).await.unwrap(), killed(Signal::KILL));
    assert!(begun.elapsed() >= grace);
    assert_eq!(members(job.pid()), NOBODY);
}

#[tokio::test]
async fn a_program_may_use_the_grace_though_its_shell_died_at_once() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let command = "sh -c 'trap \"sleep 0.3; echo saved; exit\" TERM; echo ready; \
                   while :; do sleep 0.01; done'; :";
    let mut job = scratch.start_ready(&guardian, command).await;
    assert_eq!(within(job.terminate(DEADLINE)).await.unwrap(), killed(Signal::TERM));
    assert!(scratch.output().contains("saved"), "{}", scratch.output());
}

#[tokio::test]
async fn dropping_a_running_job_kills_its_group() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let job = scratch.start_ready(&guardian, &format!("trap '' TERM; {FAMILY} wait")).await;
    let pid = job.pid();
    drop(job);
    eventually("the group is gone", || members(pid).is_empty()).await;
    eventually("the shell is reaped", || state(pid).is_none()).await;
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut job = scratch.start(&guardian, "while [ ! -e go ]; do sleep 0.01; done; exit 6").await;
    for _ in 0..20 {
        let wait = tokio::time::timeout(Duration::from_millis(1), job.wait());
        assert!(wait.await.is_err(), "the job ended without its sign");
    }
    fs::write(scratch.0.join("go"), "").unwrap();
    assert_eq!(within(job.wait()).await.unwrap(), exited(6));
}

#[tokio::test]
async fn a_job_is_waited_for_without_a_pidfd_too() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut job = scratch.start(&guardian, "sleep 0.05; exit 7").await;
    job.watch = Watch::Poll;
    assert_eq!(within(job.wait()).await.unwrap(), exited(7));
}

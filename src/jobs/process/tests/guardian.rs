//! The helper process that outlives its runner for a moment.

use rustix::process::{Pid, kill_process};

use super::*;

/// A process group that is not fiefdom's, killed and reaped when dropped.
struct Stranger(std::process::Child);

impl Stranger {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").stdout(Stdio::null()).process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    async fn is_killed(&mut self) {
        eventually("the group is killed", || self.0.try_wait().unwrap().is_some()).await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the helper as the death of the runner would, with all registrations in
/// place, and waits for its end.
async fn runner_dies(guardian: Guardian) {
    let pid = guardian.pid().unwrap();
    // Nothing writes to the pipe after this.
    guardian.close_pipe();
    eventually("the guardian is done", || !lives(pid)).await;
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn what_is_registered_is_killed_and_what_was_struck_off_is_not() {
    let guardian = Guardian::start().unwrap();
    let (mut registered, mut unknown_start, struck) = (Stranger::start(), Stranger::start(), Stranger::start());
    let start = |of: &Stranger| group::start_time(of.pid());
    let _first = guardian.register(registered.pid(), start(&registered)).await.unwrap();
    let second = guardian.register(struck.pid(), start(&struck)).await.unwrap();
    let _third = guardian.register(unknown_start.pid(), None).await.unwrap();
    drop(second);
    runner_dies(guardian).await;
    registered.is_killed().await;
    unknown_start.is_killed().await;
    assert!(lives(struck.pid()));
}

#[tokio::test]
async fn a_group_whose_id_was_given_out_anew_is_spared() {
    let guardian = Guardian::start().unwrap();
    let stranger = Stranger::start();
    let other = group::start_time(stranger.pid()).unwrap() - 1;
    let _registration = guardian.register(stranger.pid(), Some(other)).await.unwrap();
    runner_dies(guardian).await;
    assert!(lives(stranger.pid()));
}

#[tokio::test]
async fn members_of_a_group_are_killed_when_its_leader_is_gone() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut leader = Command::new("sh")
        .args(["-c", "sleep 1000 & :"])
        .current_dir(&scratch.0)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = leader.id();
    let _cleanup = Groups(vec![pid]);
    let start = group::start_time(pid);
    let _registration = guardian.register(pid, start).await.unwrap();
    leader.wait().unwrap();
    assert_eq!(members(pid).len(), 1);
    runner_dies(guardian).await;
    eventually("the member is killed", || members(pid).is_empty()).await;
}

#[tokio::test]
async fn thousands_of_registrations_share_few_slots() {
    let guardian = Guardian::start().unwrap();
    let (mut first, mut last) = (Stranger::start(), Stranger::start());
    let _first = guardian.register(first.pid(), group::start_time(first.pid())).await.unwrap();
    let begun = Instant::now();
    for _ in 0..50 {
        let mut held = Vec::new();
        for id in 0..100 {
            // No such processes; their slots are free before the end.
            held.push(within(guardian.register(4_000_000_000 + id, Some(1))).await.unwrap());
        }
    }
    let _last = guardian.register(last.pid(), group::start_time(last.pid())).await.unwrap();
    println!("{:?} for 5000 registrations", begun.elapsed());
    assert_eq!(guardian.slot_count(), 101);
    let begun = Instant::now();
    runner_dies(guardian).await;
    println!("{:?} until the guardian had read all", begun.elapsed());
    first.is_killed().await;
    last.is_killed().await;
}

#[tokio::test]
async fn the_signals_of_a_terminal_do_not_end_the_guardian() {
    let guardian = Guardian::start().unwrap();
    let mut stranger = Stranger::start();
    let pid = guardian.pid().unwrap();
    // By then the shell has run its first line, the trap: it reads.
    let _registration = guardian.register(stranger.pid(), None).await.unwrap();
    let ignored = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    };
    let bit = |signal: Signal| 1 << (signal.as_raw() - 1);
    eventually("the traps are set", || ignored() & bit(Signal::PIPE) != 0).await;
    for one in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::TSTP] {
        signal(pid, one);
    }
    assert!(guardian.is_alive());
    runner_dies(guardian).await;
    stranger.is_killed().await;
}

#[tokio::test]
async fn a_dead_guardian_takes_no_job_until_it_is_restarted() {
    let scratch = Scratch::new();
    let guardian = Guardian::start().unwrap();
    let mut running = scratch.start_ready(&guardian, "echo ready; sleep 1000").await;
    let mut stranger = Stranger::start();
    let _registration = guardian.register(stranger.pid(), None).await.unwrap();

    signal(guardian.pid().unwrap(), Signal::KILL);
    eventually("the guardian is dead", || !guardian.is_alive()).await;
    let gated = spawn(&scratch.spec("touch ran")).unwrap();
    let error = within(gated.open(&guardian)).await.unwrap_err();
    assert!(error.to_string().contains("guardian of the jobs has died"), "{error}");

    within(guardian.restart()).await.unwrap();
    assert!(guardian.is_alive());
    // Restarting one that is well harms no job either.
    within(guardian.restart()).await.unwrap();
    assert!(lives(stranger.pid()) && lives(running.pid()));
    within(running.terminate(DEADLINE)).await.unwrap();
    let mut next = scratch.start(&guardian, "exit 5").await;
    assert_eq!(within(next.wait()).await.unwrap(), exited(5));
    assert!(!scratch.0.join("ran").exists());

    // The new one knows what was registered with the old one.
    runner_dies(guardian).await;
    stranger.is_killed().await;
}

#[tokio::test]
async fn dropping_the_last_clone_ends_and_reaps_the_helper() {
    let guardian = Guardian::start().unwrap();
    let pid = guardian.pid().unwrap();
    drop(guardian.clone());
    assert!(guardian.is_alive());
    drop(guardian);
    eventually("the guardian is reaped", || state(pid).is_none()).await;
}

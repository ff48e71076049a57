//! Jobs whose runner is dead.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use super::*;

/// Tells this test binary, run anew, to be a runner in the given directory.
const RUNNER_DIR: &str = "FIEFDOM_TEST_RUNNER_DIR";

/// The runner of the test below, not a test: started by it as a process of its
/// own, it runs jobs until it is killed.
#[tokio::test]
#[ignore = "started by another test"]
async fn be_a_runner() {
    let Some(dir) = std::env::var_os(RUNNER_DIR) else {
        return;
    };
    // Never dropped, as this never returns: the directory is the other test's.
    let scratch = Scratch(dir.into());
    let guardian = Guardian::start().unwrap();
    let gated = spawn(&scratch.spec("touch ran")).unwrap();
    fs::write(scratch.0.join("gated"), gated.pid().to_string()).unwrap();
    let mut jobs = Vec::new();
    for name in ["1", "2", "3"] {
        let command = format!("trap '' TERM HUP; {FAMILY} echo $$ >{name}.tmp; mv {name}.tmp {name}; wait");
        jobs.push(scratch.start(&guardian, &command).await);
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_runner_killed_with_signal_9_leaves_no_process_of_a_job() {
    let scratch = Scratch::new();
    // The path of the test without the name of the crate, wherever this module is.
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut runner = Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::be_a_runner"), "--exact", "--ignored"])
        .env(RUNNER_DIR, &scratch.0)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut groups = Groups(Vec::new());
    for name in ["gated", "1", "2", "3"] {
        let read = || fs::read_to_string(scratch.0.join(name)).ok()?.trim().parse().ok();
        let mut pid: Option<u32> = None;
        eventually("the runner has started its jobs", || {
            pid = read();
            pid.is_some()
        })
        .await;
        groups.0.extend(pid);
    }
    assert!(groups.0.iter().all(|&group| !members(group).is_empty()));

    // Its whole group, as a terminal or a supervisor would.
    kill_group(runner.id());
    assert_eq!(runner.wait().unwrap().signal(), Some(9));
    for &group in &groups.0 {
        eventually("the job is gone", || members(group).is_empty()).await;
    }
    assert!(!scratch.0.join("ran").exists());
}

/// The group of a runner that died together with its guardian, as far as one can
/// be had without the death of this process.
struct Orphan(Child, GroupId);

impl Orphan {
    fn start(command: &str, marked: bool) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).stdout(Stdio::null()).process_group(0);
        if marked {
            shell.env(group::MARK, "1");
        }
        let child = shell.spawn().unwrap();
        let pgid = child.id();
        let start_time = group::start_time(pgid).unwrap();
        Self(child, GroupId { pgid, start_time, boot_id: boot_id() })
    }

    /// One whose leader has exited and left a member.
    fn without_leader(command: &str, marked: bool) -> Self {
        let mut orphan = Self::start(command, marked);
        orphan.0.wait().unwrap();
        orphan
    }

    fn members(&self) -> Vec<u32> {
        members(self.1.pgid)
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        drop(Groups(vec![self.1.pgid]));
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_group_of_a_dead_runner_is_made_gone_once() {
    // Stays a zombie till the end of the test, which must not count as living.
    let orphan = Orphan::start("trap '' TERM; sleep 1000 & sleep 1000; :", false);
    eventually("it runs", || orphan.members().len() == 3).await;
    assert!(within(orphan.1.ensure_gone()).await.unwrap());
    assert_eq!(orphan.members(), NOBODY);
    assert!(!within(orphan.1.ensure_gone()).await.unwrap());
}

#[tokio::test]
async fn a_group_of_another_boot_or_start_time_is_not_touched() {
    let orphan = Orphan::start("sleep 1000; :", true);
    let other_boot = GroupId { boot_id: "another".into(), ..orphan.1.clone() };
    assert!(!within(other_boot.ensure_gone()).await.unwrap());
    let other_start = GroupId { start_time: orphan.1.start_time - 1, ..orphan.1.clone() };
    assert!(!within(other_start.ensure_gone()).await.unwrap());
    assert!(lives(orphan.1.pgid));
}

#[tokio::test]
async fn a_group_that_has_lost_its_leader_is_gone_only_if_a_job_started_it() {
    let marked = Orphan::without_leader("sleep 1000 & :", true);
    let stranger = Orphan::without_leader("sleep 1000 & :", false);
    eventually("both run", || marked.members().len() == 1 && stranger.members().len() == 1).await;
    // The environment shows from the exec on, shortly after the fork.
    eventually("it has its mark", || {
        let path = format!("/proc/{}/environ", marked.members()[0]);
        fs::read_to_string(path).is_ok_and(|environ| environ.contains(group::MARK))
    })
    .await;
    assert!(within(marked.1.ensure_gone()).await.unwrap());
    assert_eq!(marked.members(), NOBODY);
    assert!(!within(stranger.1.ensure_gone()).await.unwrap());
    assert_eq!(stranger.members().len(), 1);
}

#[tokio::test]
async fn ids_that_kill_would_take_for_everything_are_refused() {
    for pid in [0, 1, u32::MAX] {
        let error = group::ensure_gone(pid, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_group_id_survives_serialization() {
    let id = GroupId { pgid: 7, start_time: 8, boot_id: "b".into() };
    let text = serde_json::to_string(&id).unwrap();
    assert_eq!(text, r#"{"pgid":7,"start_time":8,"boot_id":"b"}"#);
    assert_eq!(serde_json::from_str::<GroupId>(&text).unwrap(), id);
}

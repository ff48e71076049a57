//! Real power cuts: a file system loses everything that was not flushed, at any moment of a writer's
//! life, of a recovery and of the making of a root. What was acknowledged at `Durability::Disk` is
//! there, what is there is a prefix, and nothing is half done.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use common::disks::{LoopDevice, Mount, campaign, image_dir, missing, segments_left, skip, text, tool};
use common::{Random, TestResult};
use counting::{Levels, Model};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Power cuts on each file system; a longer campaign sets `FIEFDOM_TEST_POWER_CUTS`.
const POWER_CUTS: u64 = 150;

/// Cuts before a new root is begun, so that the making of one is cut too.
const CUTS_PER_ROOT: u64 = 12;

/// Longest life of a writer.
const LIFE: Duration = Duration::from_millis(200);

/// Longest life of one in three once it begins to open the root, which takes about that long.
const OPENING: Duration = Duration::from_millis(12);

/// The process that is cut off. A line that it prints is an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_a_writer() -> TestResult {
    let both_levels = std::env::var_os("FIEFDOM_TEST_BOTH_LEVELS").is_some();
    counting::write_for_ever(if both_levels { Levels::BothAndOnlyDiskIsPromised } else { Levels::Disk }).await
}

/// A disk whose power can be cut.
struct Disk {
    mount: Option<Mount>,
    device: LoopDevice,
    dir: tempfile::TempDir,
}

impl Disk {
    /// Makes one with this file system (`ext4`, `xfs`), as `mkfs` makes it by itself.
    fn make(file_system: &str) -> TestResult<Self> {
        let dir = image_dir()?;
        let image = dir.path().join("image");
        // XFS refuses less.
        std::fs::File::create(&image)?.set_len(320 << 20)?;
        let device = LoopDevice::attach(&image)?;
        tool(&format!("mkfs.{file_system}"), &["-q", &device.0])?;
        std::fs::create_dir(dir.path().join("mnt"))?;
        let mut disk = Self { mount: None, device, dir };
        disk.plug_in()?;
        Ok(disk)
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// The file system takes nothing more, and nothing that it had not flushed is flushed.
    fn cut(&self) -> TestResult {
        tool("xfs_io", &["-x", "-c", "shutdown", text(&self.at())?]).map(drop)
    }

    /// Power is back: the file system is mounted again, and plays its journal.
    fn restart(&mut self) -> TestResult {
        if let Some(mount) = self.mount.take() {
            mount.unmount()?;
        }
        self.plug_in()
    }

    fn plug_in(&mut self) -> TestResult {
        self.mount = Some(Mount::new(&[&self.device.0], &self.at())?);
        Ok(())
    }
}

/// How long a writer lives: from its start, or from when it begins to open the root.
#[derive(Clone, Copy)]
enum Length {
    Whole(Duration),
    Opening(Duration),
}

/// A writer, and what it has said so far. It does not outlive this.
struct Writer {
    process: Child,
    stdout: ChildStdout,
    said: Vec<u8>,
}

impl Writer {
    fn start(root: &Path, life: u64, both_levels: bool) -> TestResult<Self> {
        let mut command = counting::writer(root, life)?;
        if both_levels {
            command.env("FIEFDOM_TEST_BOTH_LEVELS", "1");
        }
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or("no output")?;
        rustix::fs::fcntl_setfl(&stdout, rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { process, stdout, said: Vec::new() })
    }

    /// Takes what is in the pipe.
    fn listen(&mut self) -> TestResult {
        match self.stdout.read_to_end(&mut self.said) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            other => Err(format!("the writer ended by itself: {other:?}").into()),
        }
    }

    fn live(&mut self, length: Length) -> TestResult {
        const A_MOMENT: Duration = Duration::from_micros(300);
        let length = match length {
            Length::Whole(length) => length,
            Length::Opening(length) => {
                while !self.said.windows(7).any(|word| word == b"opening") {
                    std::thread::sleep(A_MOMENT);
                    self.listen()?;
                }
                length
            }
        };
        let end = Instant::now() + length;
        while Instant::now() < end {
            std::thread::sleep(A_MOMENT.min(end.saturating_duration_since(Instant::now())));
            self.listen()?;
        }
        Ok(())
    }

    /// Stops it, and takes the rest of what it said: whatever it says later, nobody hears.
    fn stop(&mut self) -> TestResult<Vec<String>> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::STOP)?;
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED)?;
        assert!(stopped.is_some_and(|(_, status)| status.stopped()), "the writer ended by itself");
        self.listen()?;
        let whole = self.said.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        Ok(String::from_utf8(self.said[..whole].to_vec())?.lines().map(str::to_owned).collect())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a campaign did.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: u64,
    /// Cuts while a root was made, and while dead writers were recovered.
    in_creation: u64,
    in_recovery: u64,
    /// Logs that recovery saw as those of an earlier boot.
    logs: u64,
}

/// One life and its end. What was there before says what it was cut in.
fn live_and_lose_power(
    disk: &mut Disk,
    root: &Path,
    (life, length): (u64, Length),
    both_levels: bool,
    tally: &mut Tally,
) -> TestResult<Vec<String>> {
    let fresh = !root.join(".fiefdom/format.json").exists();
    let dead = std::fs::read_dir(root.join(".fiefdom/writers")).is_ok_and(|mut writers| writers.next().is_some());
    let mut writer = Writer::start(root, life, both_levels)?;
    writer.live(length)?;
    let said = writer.stop()?;
    disk.cut()?;
    drop(writer);
    disk.restart()?;
    tally.logs += segments_left(root)?;
    // The test harness of the writer begins the line.
    let has = |word: &str| said.iter().any(|line| line.ends_with(word));
    let cut_while_opening = has("opening") && !has("opened");
    tally.in_creation += u64::from(cut_while_opening && fresh);
    tally.in_recovery += u64::from(cut_while_opening && dead);
    tally.acknowledged +=
        said.iter().filter(|line| line.starts_with("counted") || line.starts_with("deleted")).count() as u64;
    Ok(said)
}

async fn cut_the_power(file_system: &str, both_levels: bool, cuts: u64) -> TestResult {
    let mkfs = format!("mkfs.{file_system}");
    if let Some(reason) = missing(&["losetup", "mount", "umount", "xfs_io", &mkfs]) {
        return skip(&reason);
    }
    let mut disk = match Disk::make(file_system) {
        Ok(disk) => disk,
        Err(error) => return skip(&error.to_string()),
    };
    let mut random = Random::seeded()?;
    let mut tally = Tally::default();
    let mut life = 0;
    while life < cuts {
        let root = disk.at().join(format!("root-{life}"));
        let mut model = Model::default();
        for nth in 1..=CUTS_PER_ROOT.min(cuts - life) {
            life += 1;
            let mut below = |longest: Duration| {
                Duration::from_micros(random.below(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)))
            };
            let length = if nth == 1 || life.is_multiple_of(3) {
                Length::Opening(below(OPENING))
            } else {
                Length::Whole(below(LIFE))
            };
            model.live(&live_and_lose_power(&mut disk, &root, (life, length), both_levels, &mut tally)?)?;
            // Now and then the next writer finds what two or three before it left.
            if nth == CUTS_PER_ROOT || life == cuts || random.below(3) > 0 {
                model.check(&root, true).await.map_err(|error| format!("after cut {life}: {error}"))?;
            }
        }
        std::fs::remove_dir_all(&root)?;
    }
    assert!(tally.acknowledged > 0 && tally.logs > 0 && tally.in_recovery > 0, "nothing was cut: {tally:?}");
    common::shown!(
        "{cuts} power cuts on {file_system} ({} while a root was made, {} in a recovery), {} acknowledged commits, 0 lost",
        tally.in_creation,
        tally.in_recovery,
        tally.acknowledged
    );
    Ok(())
}

#[tokio::test]
async fn a_power_cut_on_ext4_loses_nothing_that_was_acknowledged() -> TestResult {
    cut_the_power("ext4", false, campaign("FIEFDOM_TEST_POWER_CUTS", POWER_CUTS)?).await
}

#[tokio::test]
async fn a_power_cut_on_xfs_loses_nothing_that_was_acknowledged() -> TestResult {
    cut_the_power("xfs", false, campaign("FIEFDOM_TEST_POWER_CUTS", POWER_CUTS)?).await
}

#[tokio::test]
async fn commits_at_the_level_os_in_between_take_nothing_with_them_in_a_power_cut() -> TestResult {
    cut_the_power("ext4", true, campaign("FIEFDOM_TEST_POWER_CUTS", POWER_CUTS)? / 4).await
}

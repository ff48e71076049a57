//! Disks that a test makes for itself: file systems on loop devices, and memory of a stated size.
//! All of it needs root, and goes away with the test, also when that panics.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{PATIENCE, TestResult};

/// What of this is missing here: the right to mount, or a tool.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("needs Linux".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    let found = |tool: &&&str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).exists()))
    };
    tools.iter().find(|tool| !found(tool)).map(|tool| format!("needs {tool}"))
}

/// Says that a test is skipped; where nothing may be skipped that is a failure.
pub(crate) fn skip(reason: &str) -> TestResult {
    if std::env::var_os("FIEFDOM_TEST_REQUIRE_ALL").is_some_and(|value| value == "1") {
        return Err(format!("nothing may be skipped here: {reason}").into());
    }
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
    Ok(())
}

/// The size of a campaign: the default, or what the environment says.
pub(crate) fn campaign(variable: &str, default: u64) -> TestResult<u64> {
    Ok(std::env::var(variable).map_or(Ok(default), |text| text.parse())?)
}

/// Runs a tool to its end; what it said when it fails.
pub(crate) fn tool(program: &str, args: &[&str]) -> TestResult<String> {
    let output = Command::new(program).args(args).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// A directory for disk images. In memory where there is some: a test does not ask whether the image
/// survives, and a flush costs nothing there.
pub(crate) fn image_dir() -> TestResult<tempfile::TempDir> {
    let at = std::env::var_os("FIEFDOM_TEST_IMAGES").unwrap_or_else(|| "/dev/shm".into());
    Ok(tempfile::tempdir_in(at).or_else(|_| tempfile::tempdir())?)
}

/// A loop device on an image file.
pub(crate) struct LoopDevice(pub(crate) String);

impl LoopDevice {
    pub(crate) fn attach(image: &Path) -> TestResult<Self> {
        // Another process can take the device that was free a moment ago.
        let mut left = 20;
        loop {
            match tool("losetup", &["--find", "--show", text(image)?]) {
                Ok(device) => return Ok(Self(device)),
                Err(error) if left == 0 => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            left -= 1;
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = tool("losetup", &["--detach", &self.0]);
    }
}

/// A mounted file system.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    mounted: bool,
}

impl Mount {
    /// `mount ARGS... AT`.
    pub(crate) fn new(args: &[&str], at: &Path) -> TestResult<Self> {
        tool("mount", &[args, &[text(at)?]].concat())?;
        Ok(Self { at: at.to_owned(), mounted: true })
    }

    /// Unmounts for good. Descriptors of threads that are ending may hold it up a moment.
    pub(crate) fn unmount(mut self) -> TestResult {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match tool("umount", &[text(&self.at)?]) {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = tool("umount", &["--lazy", &self.at.to_string_lossy()]);
        }
    }
}

pub(crate) fn text(path: &Path) -> TestResult<&str> {
    path.to_str().ok_or_else(|| "the path of a test is not UTF-8".into())
}

/// How many segments of a log dead writers have left.
pub(crate) fn segments_left(root: &Path) -> TestResult<u64> {
    let Ok(writers) = std::fs::read_dir(root.join(".fiefdom/writers")) else { return Ok(0) };
    let mut segments = 0;
    for writer in writers {
        for file in std::fs::read_dir(writer?.path())? {
            segments += u64::from(file?.path().extension().is_some_and(|extension| extension == "log"));
        }
    }
    Ok(segments)
}

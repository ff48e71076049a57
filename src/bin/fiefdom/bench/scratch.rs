//! Where is measured: a directory of our own on the user's disk, and what stands beside a figure.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fiefdom::Error;
use serde::Serialize;
use tempfile::TempDir;

use crate::failure::Failure;

/// What a root has, and nothing else: nobody measures among the instances of one.
const MARK: &str = ".fiefdom/format.json";

/// Makes the directory, if there is room for `bytes`. It goes with the value.
pub(super) fn make(dir: &Path, bytes: u64) -> Result<TempDir, Failure> {
    let dir = dir.canonicalize().map_err(|e| failed("open", dir, e))?;
    if let Some(root) = dir.ancestors().find(|above| above.join(MARK).exists()) {
        return Err(Failure::Usage(format!(
            "{} is a data root; name a directory beside it, on the same disk, with --dir",
            root.display()
        )));
    }
    let disk = rustix::fs::statvfs(&dir).map_err(|e| failed("look at the disk of", &dir, e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes {
        let reason = format!(
            "{} MiB are free, and this measurement needs {} MiB; name a directory on another disk with --dir, or \
             measure fewer or smaller instances",
            free >> 20,
            (bytes >> 20) + 1
        );
        return Err(failed("measure in", &dir, io::Error::new(io::ErrorKind::StorageFull, reason)));
    }
    let made = tempfile::Builder::new().prefix("fiefdom-bench-").tempdir_in(&dir);
    made.map_err(|e| failed("make a directory in", &dir, e))
}

/// A failure outside of the library, in its words.
pub(super) fn failed(action: &'static str, path: impl Into<PathBuf>, error: io::Error) -> Failure {
    Failure::Store(Error::Io { action, path: path.into(), source: Arc::new(error) })
}

/// What the figures were taken on.
#[derive(Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
}

/// The file system that they were taken on.
#[derive(Serialize)]
pub(super) struct FileSystem {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) options: String,
}

impl Machine {
    pub(super) fn look() -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

impl FileSystem {
    /// That of the longest mount point above `dir`, the last if there are several.
    pub(super) fn of(dir: &Path) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let above = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind, options) = (unescaped(words.next()?), words.next()?, words.next()?);
            dir.starts_with(&point).then(|| (point.components().count(), kind, options))
        });
        let (_, kind, options) = above.max_by_key(|(depth, ..)| *depth).unwrap_or((0, "unknown", ""));
        Self { kind: kind.to_owned(), options: options.to_owned() }
    }
}

/// A mount point as `/proc` writes it: blanks and the like as `\040`.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, left) = match octal {
            Some(byte) if first == b'\\' => (byte, &after[3..]),
            _ => (first, after),
        };
        bytes.push(byte);
        rest = left;
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Resident memory of this process, in bytes.
pub(super) fn resident() -> u64 {
    kibibytes("/proc/self/status", "VmRSS")
}

fn kibibytes(path: &str, key: &str) -> u64 {
    let value = field(path, key).unwrap_or_default();
    value.trim_end_matches(" kB").parse().unwrap_or(0) << 10
}

fn field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes in the files of the commit logs of a root.
pub(super) fn log_bytes(root: &Path) -> u64 {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let writers = entries(&root.join(".fiefdom/writers"));
    // A segment may go between its name and its length.
    writers.flat_map(|writer| entries(&writer.path())).filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// Most live instances that the limit of open files allows.
pub(super) fn most_live() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blanks_of_a_mount_point_are_read() {
        assert_eq!(unescaped(r"/my\040disk/\134\011a\9"), PathBuf::from("/my disk/\\\ta\\9"));
        assert_eq!(unescaped("/"), PathBuf::from("/"));
    }
}

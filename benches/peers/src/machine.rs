//! What the figures were taken on.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What has to stand beside a figure.
#[derive(Debug, Deserialize, Serialize)]
pub struct Machine {
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub file_system: String,
    pub rust: String,
}

impl Machine {
    /// The machine, and the file system that `dir` is on.
    pub fn look(dir: &Path) -> Self {
        let of = |path: &str, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib: f64 = of("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        Self {
            date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
            cpu: of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib / f64::from(1 << 20),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            file_system: said("findmnt", &["-n", "-o", "FSTYPE,OPTIONS", "-T", &dir.display().to_string()]),
            rust: said("rustc", &["--version"]),
        }
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().map(|out| out.stdout).unwrap_or_default();
    String::from_utf8_lossy(&out).split_whitespace().collect::<Vec<_>>().join(" ")
}

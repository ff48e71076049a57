//! What the disk itself can do: bytes appended to a plain file, and flushed if the store would.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fiefdom::Durability;
use serde::Serialize;

use super::load::{Latencies, Loaded, Percentiles, Setting};
use super::scratch::failed;
use crate::failure::Failure;

/// Where the file begins anew, so that it does not fill the disk.
const FILE_BYTES: u64 = 64 << 20;

/// One append after the other, of `bytes` each.
#[derive(Serialize)]
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) operations: u64,
    pub(super) per_second: f64,
    pub(super) latency_us: Percentiles,
}

/// Measures in `dir`, at the durability of the setting.
pub(super) async fn measure(setting: &Setting, dir: &Path, bytes: usize, run_for: Duration) -> Result<Limit, Failure> {
    let (setting, path) = (setting.clone(), dir.join("append"));
    let measured = tokio::task::spawn_blocking(move || {
        appends(&setting, &path, bytes, run_for).map_err(|e| failed("append to", &path, e))
    });
    let Loaded { latencies, elapsed } = measured.await.map_err(|e| Failure::Output(std::io::Error::other(e)))??;
    let loaded = Loaded { latencies, elapsed };
    Ok(Limit {
        bytes,
        operations: loaded.latencies.count(),
        per_second: loaded.per_second(),
        latency_us: loaded.latencies.percentiles(),
    })
}

fn appends(setting: &Setting, path: &Path, bytes: usize, run_for: Duration) -> std::io::Result<Loaded> {
    let (line, latencies) = (vec![b'x'; bytes], Latencies::new());
    let mut file = File::create(path)?;
    file.sync_all()?;
    let (mut written, begun) = (0, Instant::now());
    while begun.elapsed() < run_for && !setting.stop.is_cancelled() {
        if written > FILE_BYTES {
            (file, written) = (File::create(path)?, 0);
        }
        let asked = Instant::now();
        file.write_all(&line)?;
        if setting.durability == Durability::Disk {
            file.sync_data()?;
        }
        latencies.note(asked.elapsed());
        written += bytes as u64;
    }
    Ok(Loaded { latencies, elapsed: begun.elapsed() })
}

//! `kill -9` at any moment: what was acknowledged is there, what is there is a prefix, and nothing
//! is half done. A killed process is not a power cut: the operating system keeps what was written.
#![allow(missing_docs)]

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Random, TestResult};
use counting::{COUNTERS, Levels, Model};
use serde_json::Value;

/// Kills in all; a longer campaign sets `FIEFDOM_TEST_KILLS`.
const KILLS: u64 = 2_000;

/// Writers at a time, each with a root of its own.
const LANES: u64 = 4;

/// Kills before a lane begins with a new root, so that the making of one is killed too.
const KILLS_PER_ROOT: u64 = 20;

/// Longest life of a writer. Its start takes about a third of that.
const LIFE: Duration = Duration::from_millis(60);

/// The process that is killed. A line that it prints is an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn be_a_writer() -> TestResult {
    counting::write_for_ever(Levels::Both).await
}

/// Reads every record there is, again and again, while a writer is at work and after its death.
fn watch_records(root: &Path, over: &AtomicBool) -> TestResult {
    let mut seen = [false; COUNTERS.len()];
    while !over.load(Ordering::Relaxed) {
        for (name, seen) in COUNTERS.iter().zip(&mut seen) {
            match std::fs::read(root.join(format!("instances/{name}/instance.json"))) {
                Ok(bytes) => {
                    let record: Value = serde_json::from_slice(&bytes)?;
                    assert_eq!(record["state"]["value"], record["last_event_seq"], "{name}: a record of two moments");
                    *seen = true;
                }
                Err(error) => assert!(!*seen, "{name}: the record went away: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// One life of a writer: what it said before it was killed.
fn live_and_die(root: &Path, life: u64, length: Duration) -> TestResult<Vec<String>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_records(root, &over).map_err(|e| e.to_string()));
        let mut writer = counting::writer(root, life)?.stderr(Stdio::piped()).spawn()?;
        let stdout = writer.stdout.take().ok_or("no output")?;
        let said = scope.spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(length);
        let early = writer.try_wait()?;
        writer.kill()?;
        let output = writer.wait_with_output()?;
        over.store(true, Ordering::Relaxed);
        watch.join().map_err(|_| "a record was not whole")??;
        if early.is_some() {
            return Err(format!("the writer ended by itself: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(said.join().map_err(|_| "the reader panicked")?)
    })
}

async fn lane(kills: u64, mut random: Random) -> TestResult {
    let mut life = 0;
    while life < kills {
        let root = tempfile::tempdir()?;
        let mut model = Model::default();
        for nth in 1..=KILLS_PER_ROOT.min(kills - life) {
            life += 1;
            let length = Duration::from_micros(random.below(u64::try_from(LIFE.as_micros())?));
            let path = root.path().to_owned();
            let said =
                tokio::task::spawn_blocking(move || live_and_die(&path, life, length).map_err(|e| e.to_string()));
            model.live(&said.await??)?;
            // Now and then the next writer finds what two or three before it left.
            let last = nth == KILLS_PER_ROOT || life == kills;
            if last || random.below(3) > 0 {
                model.check(root.path(), last).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() -> TestResult {
    let kills = std::env::var("FIEFDOM_TEST_KILLS").map_or(Ok(KILLS), |text| text.parse())?;
    let mut random = Random::seeded()?;
    let lanes = (0..LANES).map(|_| tokio::spawn(lane(kills / LANES, Random::new(random.below(u64::MAX)))));
    for lane in lanes.collect::<Vec<_>>() {
        lane.await??;
    }
    common::shown!("{} kills at random moments, 0 acknowledged commits lost", kills / LANES * LANES);
    Ok(())
}

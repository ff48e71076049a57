//! Durable steps of durare on SQLite: so many workflows, each one step after the other.
//!
//! usage: fiefdom-peer-durare DIR CALLERS normal|full SECONDS
//!
//! Prints steps per second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use durare::{DurableContext, DurableEngine, Error, SqliteProvider, WorkflowOptions};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

const WARM_UP: Duration = Duration::from_millis(300);

/// The document of the other peers.
#[derive(Clone, Deserialize, Serialize)]
struct Document {
    count: u64,
    step: String,
    branch: String,
    note: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, callers, synchronous, seconds] = args.as_slice() else { return Err("four arguments".into()) };
    let (callers, run_for) = (callers.parse::<usize>()?, Duration::from_secs_f64(seconds.parse()?));
    // What `SqliteProvider::connect` sets, but for the level.
    let level = if synchronous == "full" { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
    let options = SqliteConnectOptions::new()
        .filename(std::path::Path::new(dir).join("state.db"))
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(level)
        .busy_timeout(Duration::from_secs(5));
    let pool = SqlitePoolOptions::new().max_connections(5).connect_with(options).await?;
    let mut engine = DurableEngine::new(Arc::new(SqliteProvider::from_pool(pool))).await?;
    let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workflow = {
        let (stop, steps) = (Arc::clone(&stop), Arc::clone(&steps));
        move |ctx: DurableContext, mut document: Document| {
            let (stop, steps) = (Arc::clone(&stop), Arc::clone(&steps));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    document.count += 1;
                    let done = document.clone();
                    document = ctx.step("count", || async move { Ok::<_, Error>(done) }).await?;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                Ok(document.count)
            }
        }
    };
    engine.register("work", workflow);
    let document = Document { count: 0, step: "compile".into(), branch: "main".into(), note: "x".repeat(140) };
    let mut running = Vec::new();
    for caller in 0..callers {
        let options = WorkflowOptions::with_id(format!("instance-{caller}"));
        running.push(engine.start::<Document, u64>("work", document.clone(), options).await?);
    }
    tokio::time::sleep(WARM_UP).await;
    let (begun, before) = (Instant::now(), steps.load(Ordering::Relaxed));
    tokio::time::sleep(run_for).await;
    let (took, after) = (begun.elapsed(), steps.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    for workflow in running {
        workflow.await?;
    }
    println!("{}", (after - before) as f64 / took.as_secs_f64());
    Ok(())
}

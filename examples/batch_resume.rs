//! A batch that survives its program: the first run crashes half-way, the second does the rest.
//!
//! ```sh
//! cargo run --example batch_resume          # crashes in the middle of the fourth chapter
//! cargo run --example batch_resume          # goes on with that one
//! ```
//!
//! The first argument is the data root; without it that is `target/batch_resume`.

use std::path::PathBuf;

use fiefdom::jobs::{Batch, BatchSettings, Claim, ItemOutcome};
use fiefdom::{BoxError, Store, Untyped};
use serde::{Deserialize, Serialize};

/// What is to be done once for each.
#[derive(Serialize, Deserialize)]
struct Chapter {
    title: String,
    words: u64,
}

const CHAPTERS: [(&str, u64); 8] = [
    ("The harbour", 5_210),
    ("A letter", 3_870),
    ("Storm", 6_120),
    ("The ledger", 4_450),
    ("Wire and ink", 5_900),
    ("Low tide", 2_980),
    ("The auction", 4_760),
    ("Home", 3_310),
];

/// The work on one item. The first attempt at the fourth takes the whole process down.
fn summarise(claim: &Claim<Chapter>) -> Result<String, BoxError> {
    if claim.index() == 3 && claim.attempt() == 1 {
        println!("{}: crashing", claim.item().title);
        std::process::abort();
    }
    if claim.item().words < 100 {
        return Err("it is too short for a summary".into());
    }
    Ok(format!("{} in {} words", claim.item().title, claim.item().words / 100))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/batch_resume"), PathBuf::from);
    let store = Store::open(root, Untyped).await?;
    let chapters = CHAPTERS.map(|(title, words)| Chapter { title: title.into(), words });

    // Made by the first run; the others find it, and go on where it stands.
    let mut settings = BatchSettings::default();
    settings.context_budget = Some(10_000);
    let batch = Batch::open(&store, "chapters".parse()?, chapters, settings).await?;
    let before = batch.progress().await?;
    println!("{} of {} are done, {} interrupted", before.completed, before.total, before.interrupted);

    while let Some(claim) = batch.next().await? {
        match summarise(&claim) {
            Ok(summary) => batch.mark_completed(&claim, summary).await?,
            Err(error) => batch.mark_failed(&claim, error).await?,
        }
        println!("{}: attempt {}", claim.item().title, claim.attempt());
        batch.record_usage(claim.item().words).await?;
        if batch.should_clear_context().await? {
            batch.record_context_clear().await?;
            println!("the context is cleared");
        }
    }

    let mut next = Some(1);
    while let Some(from) = next {
        let page = batch.results(from).await?;
        for result in &page.results {
            match &result.outcome {
                ItemOutcome::Completed(summary) => println!("chapter {}: {summary}", result.index + 1),
                other => println!("chapter {}: {other:?}", result.index + 1),
            }
        }
        next = page.next;
    }
    println!("done: {}, tokens: {}", batch.is_done().await?, batch.usage().await?.tokens);
    store.shutdown().await?;
    Ok(())
}

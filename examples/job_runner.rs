//! Typed jobs in an async program: queries of an index that is expensive to make, made once and shared.
//!
//! ```sh
//! cargo run --example job_runner          # one query fails at first, and is tried again
//! cargo run --example job_runner          # every query has already succeeded
//! ```
//!
//! The first argument is the data root; without it that is `target/job_runner`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fiefdom::jobs::{Attempt, Batch, BatchItem, BatchSettings, Job, RetryPolicy, Runner};
use fiefdom::{BoxError, Instance, NewInstance, Session, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

const WORDS: [&str; 6] = ["coffee", "harbour", "ledger", "pencil", "storm", "wire"];

/// Finds the lines of a text that hold a word.
struct Query {
    text: PathBuf,
}

#[derive(Clone, Serialize, Deserialize)]
struct Answer {
    word: String,
    lines: Vec<usize>,
}

/// The numbers of the lines that hold each word.
type Index = BTreeMap<String, Vec<usize>>;

impl Instance for Query {
    const KIND: &'static str = "query";
    type State = Answer;
    type Prepared = Index;

    async fn prepare(&self) -> Result<Index, BoxError> {
        println!("making the index");
        let path = self.text.clone();
        let text = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await??;
        let mut index = Index::new();
        for (line, number) in text.lines().zip(1..) {
            for word in line.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
                index.entry(word.to_lowercase()).or_default().push(number);
            }
        }
        Ok(index)
    }

    fn initial(&self, _: &Index, new: &NewInstance) -> Result<Answer, BoxError> {
        Ok(Answer { word: new.input_as()?, lines: Vec::new() })
    }
}

impl Job for Query {
    async fn run(&self, session: Session<Self>, attempt: Attempt) -> Result<(), BoxError> {
        let word = session.read(|answer| answer.word.clone()).await?;
        if word == "wire" && attempt.number == 1 {
            return Err("the wire is down".into());
        }
        let lines = session.prepared().get(&word).cloned().ok_or("the text does not hold this word")?;
        session
            .commit(move |tx| {
                tx.event("query.answered", &json!({ "lines": lines.len() }))?;
                tx.state_mut().lines = lines;
                Ok(())
            })
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root = std::env::args_os().nth(1).unwrap_or_else(|| "target/job_runner".into());
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/jobs/data/story.txt");
    let store = Store::open(root, Query { text }).await?;

    let mut items = Vec::new();
    for word in WORDS {
        items.push(BatchItem::new(format!("query-{word}").parse()?, json!(word)));
    }
    // A batch of this name that is there already goes on with what has not succeeded.
    let batch = Batch::open(&store, "words".parse()?, items.clone(), BatchSettings::default()).await?;
    let runner = Runner::new(store.clone()).concurrency(3).retry(RetryPolicy::attempts(3));
    let summary =
        runner.run(&batch, |job| println!("{}: {:?} at attempt {}", job.id, job.outcome, job.attempt)).await?;

    for item in items {
        let answer = store.get(&item.id).await?.state().await?;
        println!("{} is on the lines {:?}", answer.word, answer.lines);
    }
    println!("{} of {} succeeded, {} of them before", summary.succeeded, summary.total, summary.already_succeeded);
    store.shutdown().await?;
    Ok(())
}

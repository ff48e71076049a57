//! What happens to instances that are over: one is changed by its id alone, one is exported, the old ones
//! are deleted, and the exported one comes back under another name. The change feed tells of every commit
//! meanwhile.
//!
//! ```sh
//! cargo run --example housekeeping        # argument: data root [target/housekeeping]
//! ```

use std::path::PathBuf;

use fiefdom::control::{Change, Operation};
use fiefdom::{BoxError, Filter, ImportOptions, NewInstance, Retention, RetentionRule, Status, Store, Untyped};
use futures::StreamExt as _;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/housekeeping"), PathBuf::from);
    let store = Store::open(&root, Untyped).await?;

    // Every commit of this process from here on. One that listens too slowly is told what it missed.
    let mut changes = store.changes();
    let listener = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(change) = changes.next().await {
            seen.push(match change {
                Ok(change) if change.created => format!("{} is new", change.id),
                Ok(change) if change.deleted => format!("{} is gone", change.id),
                Ok(change) => format!("{} is {}", change.id, change.status),
                Err(lagged) => lagged.to_string(),
            });
        }
        seen
    });

    for n in 1..=4 {
        let job = store.create(NewInstance::with_id(format!("job-{n}").parse()?)).await?;
        job.put_artifact("result.txt", format!("the result of job {n}\n")).await?;
        job.transition(Status::Succeeded, None).await?;
    }

    // By its id alone, whichever process has it in use: here it is this one.
    let seen = Change::new().merge(json!({ "seen": true }));
    let done = store.control(&"job-2".parse()?, Operation::Update(seen)).await?;
    println!("{} is at revision {}", done.record.id, done.record.revision);

    // One moment of its commits, also when somebody is writing to it.
    let archive = root.with_extension("tar.gz");
    let exported = store.export_file(&"job-1".parse()?, &archive).await?;
    println!("exported {} at revision {}", exported.instance_id, exported.revision);

    // The newest stays; `gc_dry_run` only says what would go. What is live is refused.
    let policy = Retention::new().rule(RetentionRule::new().status(Status::Succeeded).keep(1));
    let planned = store.gc_dry_run(&policy).await?;
    println!("in use: {} of {}", planned.refused.len(), planned.refused.len() + planned.deleted.len());
    store.shutdown().await?;
    let mut told = listener.await?;
    told.truncate(4);
    println!("{}", told.join(", "));

    let store = Store::open(&root, Untyped).await?;
    let report = store.gc(&policy).await?;
    let mut deleted: Vec<&str> = report.deleted.iter().map(|deleted| deleted.instance_id.as_str()).collect();
    deleted.sort_unstable();
    println!("deleted {}", deleted.join(", "));

    let options = ImportOptions::with_id("job-1-again".parse()?);
    let imported = store.import(std::fs::File::open(&archive)?, options).await?;
    println!("{} comes from {}", imported.instance_id, imported.origin.instance_id);
    for record in store.list(Filter::default()).await?.records {
        println!("there is {}, {}", record.id, record.status);
    }
    Ok(store.shutdown().await?)
}

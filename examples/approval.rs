//! Work that stops for a person: a checkpoint, a question, and an alarm as a reminder. The process may
//! end at any point and be started again; here it ends by itself while the question is open.
//!
//! ```sh
//! cargo run --example approval                                # builds, asks, and ends
//! cargo run --example approval                                # reminds, and asks again
//! cargo run -- --root target/approval answer release-7 deploy '"yes"'
//! cargo run --example approval                                # has the answer, and deploys
//! ```

use std::path::PathBuf;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use fiefdom::{BoxError, Checkpoint, Error, NewInstance, Session, Status, Store, Untyped};
use serde_json::json;

/// How long a run looks for an alarm that is due.
const LOOK: Duration = Duration::from_millis(500);

/// The expensive part, which is not done twice: whoever finds its checkpoint goes on behind it.
async fn build(release: &Session<Untyped>) -> Result<(), BoxError> {
    if let Some(last) = release.last_checkpoint().await? {
        println!("{} in an earlier run: {}", last.checkpoint.step, last.checkpoint.data["image"]);
        return Ok(());
    }
    println!("building");
    let built = Checkpoint::new("built").message("12 tests pass").data(json!({ "image": "web:7" })).tool("cargo");
    release.checkpoint(built).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/approval"), PathBuf::from);
    let store = Store::open(root, Untyped).await?;

    // What came due while nothing ran. It comes again until it is done.
    let mut alarms = store.alarms();
    while let Ok(Some(due)) = tokio::time::timeout(LOOK, alarms.next()).await {
        let due = due?;
        println!("reminder for {}: {}", due.id(), due.payload::<String>()?);
        due.done().await?;
    }

    let release = store.get_or_create(NewInstance::with_id("release-7".parse()?).kind("release")).await?;
    if release.record().await?.status == Status::Succeeded {
        println!("release-7 is deployed");
        return Ok(store.shutdown().await?);
    }
    release.transition(Status::Running, None).await?;
    build(&release).await?;

    // With a longer time this waits for the answer, also when another process gives it.
    let question = release.request_input_within(
        "deploy",
        "The tests pass. Deploy?",
        json!({ "enum": ["yes", "no"] }),
        Duration::ZERO,
    );
    match question.await {
        Ok(answer) => {
            println!("the answer is {answer}");
            let next = if answer == "yes" { Status::Succeeded } else { Status::Cancelled };
            let decide = move |tx: &mut fiefdom::Transaction<_>| {
                tx.clear_alarm();
                tx.event("release.decided", &json!({ "answer": answer }))?;
                tx.set_status(next, None)
            };
            release.commit(decide).await?;
        }
        Err(Error::NotAnswered { .. }) => {
            println!("it waits for: fiefdom answer release-7 deploy '\"yes\"'");
            release.set_alarm(Utc::now() + TimeDelta::milliseconds(1), "nobody has answered yet").await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(store.shutdown().await?)
}

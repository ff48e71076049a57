//! An agent session that streams what it does as events, writes artifacts, and survives restarts.
//!
//! ```sh
//! cargo run --example agent_session       # begins, answers two questions, and waits
//! cargo run --example agent_session       # goes on from what is on disk, and is done
//! ```
//!
//! The first argument is the data root; without it that is `target/agent_session`.

use fiefdom::{BoxError, Instance, NewInstance, Result, Session, Status, Store};
use futures::StreamExt as _;
use serde_json::{Value, json};

/// What the session is about. The answers stand in for a language model.
const TURNS: [(&str, &str); 4] = [
    ("Who keeps the ledger?", "The keeper of the harbour."),
    ("When is the line written?", "Every morning, before the coffee."),
    ("What if it is wrong?", "One stroke, and the right figure next to it."),
    ("Why keep it?", "The large book can be made again from the small ones."),
];

struct Agent;

impl Instance for Agent {
    const KIND: &'static str = "agent-session";
    type State = Vec<String>; // the artifacts, one per answer
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Vec<String>, BoxError> {
        Ok(Vec::new())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root = std::env::args_os().nth(1).unwrap_or_else(|| "target/agent_session".into());
    let store = Store::open(root, Agent).await?;
    let session = store.get_or_create(NewInstance::with_id("ledger-talk".parse()?).tag("model", "none")).await?;
    let done = session.read(Vec::len).await?;
    println!("{done} of {} questions are answered", TURNS.len());
    if !session.record().await?.status.is_final() {
        let run = session.commit(|tx| Ok(tx.begin_attempt())).await?.value;
        let printer = tokio::spawn(print_events(session.clone(), run));
        session.transition(Status::Running, None).await?;
        for number in (1..=TURNS.len()).skip(done).take(2) {
            take_turn(&session, number).await?;
        }
        session.append("run.ended", json!({ "run": run })).await?;
        match TURNS.len() - session.read(Vec::len).await? {
            0 => session.transition(Status::Succeeded, None).await?,
            _ => session.transition(Status::Waiting, Some("for the next run")).await?,
        }
        printer.await??;
    }
    println!("the session is {} in {}", session.record().await?.status, session.path().display());
    store.shutdown().await?;
    Ok(())
}

/// One question and its answer, word by word.
async fn take_turn(session: &Session<Agent>, number: usize) -> Result<()> {
    let (question, answer) = TURNS[number - 1];
    session.append("turn.began", json!({ "question": question })).await?;
    for word in answer.split(' ') {
        session.append("turn.word", word).await?;
    }
    // The file comes first: a state on disk never names an artifact that is not there. If the
    // program dies in between, the turn is taken again and the file replaced.
    let artifact = format!("answer-{number}.md");
    session.put_artifact(&artifact, format!("# {question}\n\n{answer}\n")).await?;
    session
        .commit(move |tx| {
            tx.event("turn.ended", &json!({ "artifact": artifact }))?;
            tx.state_mut().push(artifact);
            Ok(())
        })
        .await?;
    Ok(())
}

/// Prints the history of the session and then what happens, until this run has ended.
async fn print_events(session: Session<Agent>, run: u32) -> Result<()> {
    let mut events = session.events(1);
    while let Some(event) = events.next().await {
        let event = event?;
        println!("{:>3} {} {}", event.seq, event.kind, event.data);
        if event.kind == "run.ended" && event.data_as::<Value>()? == json!({ "run": run }) {
            break;
        }
    }
    Ok(())
}

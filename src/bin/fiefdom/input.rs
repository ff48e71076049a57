//! What people see of the work, and say to it: `answer`, and the part of `show` with the last
//! checkpoint and the open questions.

use fiefdom::control::Operation;
use fiefdom::{DataRoot, Record, View};
use serde_json::{Value, json};

use crate::args::Answer;
use crate::edit::{need_root, with_store};
use crate::failure::{DONE, Failure};
use crate::output::{Output, age, plain, say};
use crate::run;

pub(crate) async fn answer(root: DataRoot, out: Output, args: Answer) -> Result<u8, Failure> {
    let Answer { id, key, value } = args;
    need_root(&root, &id)?;
    let operation = Operation::Answer { key: key.clone(), value };
    let done = with_store(root, async |store| Ok(store.control(&id, operation).await?)).await?;
    let seq = done.event_seq.unwrap_or_default();
    out.line(format!("{} is answered (event {seq})", plain(&key)))?;
    out.document(&json!({ "instance_id": id, "key": key, "seq": seq }))?;
    Ok(DONE)
}

/// The lines of `show`.
pub(crate) fn show(view: &View, out: Output, record: &Record<Value>, with_root: bool) -> Result<(), Failure> {
    match view.last_checkpoint(&record.id) {
        Ok(None) => {}
        Ok(Some(last)) => {
            let mut text = last.checkpoint.step.clone();
            if let Some(message) = &last.checkpoint.message {
                text = format!("{text}: {message}");
            }
            out.line(format!("checkpoint {} ({} ago, event {})", plain(&text), age(last.at), last.seq))?;
        }
        // The rest is worth showing.
        Err(error) => say(format!("fiefdom: {error}")),
    }
    for open in record.input_requests() {
        out.line(format!("asks       {}: {} ({} ago)", plain(&open.key), plain(&open.prompt), age(open.asked_at)))?;
        out.line(format!("           schema {}", plain(&open.schema.to_string())))?;
        let root = if with_root { format!("--root {} ", run::quoted(view.path())) } else { String::new() };
        out.line(format!("           fiefdom {root}answer {} {} JSON", record.id, quoted(&open.key)))?;
    }
    Ok(())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // What begins with a dash would be taken for an option.
    let dashed = if word.starts_with('-') { "-- " } else { "" };
    if word.chars().all(simple) {
        format!("{dashed}{word}")
    } else {
        format!("{dashed}'{}'", plain(word).replace('\'', "'\\''"))
    }
}

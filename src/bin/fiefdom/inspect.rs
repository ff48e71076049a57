//! Commands that read: `ls`, `show`, `events`, `logs`. They take no lock and wake nothing.

use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fiefdom::{DataRoot, Error, Event, Filter, InstanceId, Record, View, Waiting};
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use crate::args::{Events, Logs, Ls, Show, unique};
use crate::failure::{DONE, Failure, WORK};
use crate::output::{Output, age, plain, say, status};
use crate::{batch, input};

/// How often a log is looked at while it is followed.
const POLL: Duration = Duration::from_millis(100);

/// Opens a root to read it, and says what may be missing in it.
pub(crate) fn open(root: DataRoot) -> Result<View, Failure> {
    let view = View::open(root)?;
    match view.recover() {
        Waiting::DeadWriter => say(
            "fiefdom: a process died with commits that are not in the files yet, and they cannot be recovered now: what follows may be behind",
        ),
        Waiting::Recovering => {
            say("fiefdom: another process is recovering what a dead one left: what follows may be behind");
        }
        _ => {}
    }
    Ok(view)
}

pub(crate) fn list(root: DataRoot, out: Output, args: &Ls) -> Result<u8, Failure> {
    let mut filter = Filter::default();
    filter.statuses.clone_from(&args.status);
    filter.tags = unique(args.tag.clone())?;
    filter.kind.clone_from(&args.kind);
    filter.limit = args.limit;
    let view = open(root)?;
    let listing = view.list(&filter)?;
    for (_, error) in &listing.damaged {
        say(format!("fiefdom: {error}"));
    }
    let damaged: Vec<Value> =
        listing.damaged.iter().map(|(id, e)| json!({ "instance_id": id, "error": e.to_string() })).collect();
    out.document(&json!({ "instances": listing.records, "damaged": damaged }))?;
    if listing.records.is_empty() {
        if !out.json && io::stdout().is_terminal() {
            say(format!("no instances in {}", view.path().display()));
        }
    } else {
        let rows: Vec<Vec<String>> = listing.records.iter().map(row).collect();
        out.table(&["ID", "STATUS", "KIND", "AGE", "ABOUT"], &rows)?;
    }
    Ok(if listing.damaged.is_empty() { DONE } else { WORK })
}

fn row(record: &Record<Value>) -> Vec<String> {
    let about = record.name.iter().chain(&record.status_reason).cloned();
    let tags = record.tags.iter().map(|(key, value)| format!("{key}={value}"));
    let about: Vec<String> = about.chain(tags).map(|text| plain(&text)).collect();
    vec![record.id.to_string(), status(record.status), plain(&record.kind), age(record.created_at), about.join("  ")]
}

/// `with_root` says that the commands which it suggests need the root, because this one was told it.
pub(crate) fn show(root: DataRoot, out: Output, args: &Show, with_root: bool) -> Result<u8, Failure> {
    let view = open(root)?;
    let record = view.record(&args.id)?;
    out.document(&record)?;
    if out.json {
        return Ok(DONE);
    }
    let time = |at: chrono::DateTime<chrono::Utc>| format!("{} ({} ago)", at.format("%Y-%m-%d %H:%M:%S UTC"), age(at));
    let field = |name: &str, value: String| out.line(format!("{name:<10} {value}"));
    field("id", record.id.to_string())?;
    field("kind", plain(&record.kind))?;
    if let Some(name) = &record.name {
        field("name", plain(name))?;
    }
    let reason = record.status_reason.as_ref().map_or_else(String::new, |reason| format!(": {}", plain(reason)));
    field("status", format!("{}{reason}", status(record.status)))?;
    field("created", time(record.created_at))?;
    field("updated", time(record.updated_at))?;
    if let (Some(started), Some(ended)) = (record.started_at, record.ended_at) {
        field("took", crate::output::short((ended - started).to_std().unwrap_or_default()))?;
    }
    if record.attempt > 0 {
        field("attempts", record.attempt.to_string())?;
    }
    for (key, value) in &record.tags {
        field("tag", plain(&format!("{key}={value}")))?;
    }
    if record.pinned {
        field("pinned", "gc leaves it alone".to_owned())?;
    }
    if let Some(alarm) = &record.alarm {
        let at = alarm.at.format("%Y-%m-%d %H:%M:%S UTC");
        field("alarm", plain(&format!("{at}, payload {}", alarm.payload.get())))?;
    }
    input::show(&view, out, &record, with_root)?;
    let is_batch = batch::show(out, &record)?;
    field("revision", format!("{} (epoch {}, {} events)", record.revision, record.epoch, record.last_event_seq))?;
    field("directory", view.instance_path(&record.id).display().to_string())?;
    if is_batch {
        // What else is in it is for the library.
        return Ok(DONE);
    }
    out.line("state")?;
    let state = serde_json::to_string_pretty(&*record.state).map_err(io::Error::from)?;
    state.lines().try_for_each(|line| out.line(format!("  {line}")))?;
    Ok(DONE)
}

pub(crate) async fn events(root: DataRoot, out: Output, args: Events) -> Result<u8, Failure> {
    let view = open(root)?;
    view.record(&args.id)?;
    if args.follow {
        let mut events = view.follow(&args.id, args.from)?;
        while let Some(event) = events.try_next().await? {
            print_event(out, &event)?;
        }
        return Ok(DONE);
    }
    let mut from = args.from;
    loop {
        let events = view.events(&args.id, from)?;
        let Some(last) = events.last() else { return Ok(DONE) };
        from = last.seq + 1;
        events.iter().try_for_each(|event| print_event(out, event))?;
    }
}

fn print_event(out: Output, event: &Event) -> Result<(), Failure> {
    out.document(event)?;
    let data = event.data.get();
    let data = if data == "null" { "" } else { data };
    out.line(
        format!("{:>6}  {}  {}  {data}", event.seq, event.at.format("%Y-%m-%d %H:%M:%S%.3f"), event.kind).trim_end(),
    )
}

pub(crate) async fn logs(root: DataRoot, out: Output, args: &Logs) -> Result<u8, Failure> {
    let view = open(root)?;
    view.record(&args.id)?;
    let mut streams: Vec<Log> = ["stdout", "stderr"]
        .into_iter()
        .zip(view.log_paths(&args.id))
        .map(|(name, path)| Log { name, path, reader: None, line: Vec::new() })
        .collect();
    let mut last = None;
    loop {
        // In this order: what was printed before the end is there after the end was seen.
        let ended = !args.follow || has_ended(&view, &args.id);
        if streams.iter().any(|log| log.reader.is_none()) {
            let found = match view.open_logs(&args.id) {
                // It is being deleted.
                Err(Error::NotFound { .. }) => [None, None],
                other => other?,
            };
            for (log, found) in streams.iter_mut().zip(found) {
                let reader = found.map(|found| BufReader::new(Box::new(found) as Box<dyn Read>));
                log.reader = log.reader.take().or(reader);
            }
        }
        for log in &mut streams {
            log.print(out, &mut last, ended)?;
        }
        if ended {
            return Ok(DONE);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn has_ended(view: &View, id: &InstanceId) -> bool {
    view.record(id).map_or(true, |record| record.status.is_final() || record.status == fiefdom::Status::Interrupted)
}

/// Not by `From`: that is for what standard output says.
fn unreadable(path: &Path, error: io::Error) -> Failure {
    Error::Io { action: "read", path: path.to_owned(), source: Arc::new(error) }.into()
}

/// One of a job's two log files, while it is printed.
struct Log {
    name: &'static str,
    path: std::path::PathBuf,
    reader: Option<BufReader<Box<dyn Read>>>,
    line: Vec<u8>,
}

impl Log {
    /// Prints the lines that are there; an unfinished one only when no more is to come.
    fn print(&mut self, out: Output, last: &mut Option<&'static str>, ended: bool) -> Result<(), Failure> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        loop {
            let read = reader.read_until(b'\n', &mut self.line).map_err(|e| unreadable(&self.path, e))?;
            let whole = self.line.ends_with(b"\n");
            let complete = whole || (ended && read == 0);
            if self.line.is_empty() || !complete {
                if read == 0 {
                    return Ok(());
                }
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if out.json {
                let text = String::from_utf8_lossy(&line);
                out.document(&json!({ "stream": self.name, "line": text.trim_end_matches(['\n', '\r']) }))?;
                continue;
            }
            // As tail(1) does with several files.
            if last.replace(self.name) != Some(self.name) {
                out.line(format!("==> {} <==", self.path.display()))?;
            }
            if !whole {
                line.push(b'\n');
            }
            io::stdout().lock().write_all(&line)?;
        }
    }
}

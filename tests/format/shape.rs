//! The shape of what is on disk: the names of the files, and in each the paths of its JSON with their
//! types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::common::TestResult;
use crate::workout::files;

/// By file, by path, the types that were seen.
pub(crate) type Shape = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Adds what is below a root.
pub(crate) fn add(shape: &mut Shape, root: &Path) -> TestResult {
    for path in files(root)? {
        let bytes = std::fs::read(root.join(&path))?;
        let name = path.to_str().ok_or("not UTF-8")?;
        let mut pattern = pattern(name);
        let documents = documents(name, &bytes);
        let kind = documents.first().and_then(|first| first["kind"].as_str());
        let kind = kind.filter(|_| name.ends_with("/instance.json"));
        if let Some(kind) = kind {
            pattern = format!("{pattern} of a {kind}");
        }
        for document in &documents {
            walk(document, "", shape.entry(pattern.clone()).or_default());
            // The state of the library's own kinds is a format of its own, with its own versions.
            if let Some(kind @ ("job" | "batch")) = kind {
                let paths = shape.entry(format!("{}{}", state_of(kind), document["schema_version"])).or_default();
                walk(&document["state"], "", paths);
            }
        }
        shape.entry(pattern).or_default();
    }
    Ok(())
}

fn state_of(kind: &str) -> String {
    format!("state of a {kind}, version ")
}

/// A name without what differs from one root to the next.
fn pattern(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    if let [".fiefdom", "alarms", _kind, _hour, _alarm] = parts[..] {
        return ".fiefdom/alarms/<kind>/<hour>/<alarm>".to_owned();
    }
    let mut named = Vec::new();
    for (nth, part) in parts.iter().enumerate() {
        let (id, rest) = match nth.checked_sub(1).map(|above| parts[above]) {
            Some("instances") => ("<id>", ""),
            Some("trash" | "quarantine") => part.split_once('.').map_or(("", *part), |(_, rest)| ("<id>.", rest)),
            _ => ("", *part),
        };
        let words: Vec<String> = rest.split('.').map(plain).collect();
        named.push(format!("{id}{}", words.join(".")));
    }
    named.join("/")
}

/// Without identifiers, sums and numbers.
fn plain(word: &str) -> String {
    if is_uuid(word) {
        return "<uuid>".into();
    }
    if word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return "<sum>".into();
    }
    match word.rsplit_once('-') {
        Some((begin, end)) if !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()) => format!("{begin}-<n>"),
        _ => word.to_owned(),
    }
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The JSON documents of a file, none when it holds something else.
fn documents(name: &str, bytes: &[u8]) -> Vec<Value> {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).ok();
    let is_journal = name.contains("/journal-");
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    match extension {
        _ if is_journal => bytes.split(|b| *b == b'\n').filter_map(|line| parse(line.get(9..)?)).collect(),
        Some("jsonl") => bytes.split(|b| *b == b'\n').filter_map(parse).collect(),
        Some("json") => parse(bytes).into_iter().collect(),
        _ if name.ends_with("/lock") => parse(bytes).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn walk(value: &Value, path: &str, paths: &mut BTreeMap<String, BTreeSet<String>>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    paths.entry(path.to_owned()).or_default().insert(kind.to_owned());
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    // What belongs to the user, or is looked at elsewhere.
    let last = path.rsplit('.').next().unwrap_or_default();
    if matches!(last, "data" | "input" | "tags" | "later" | "record" | "state" | "schema" | "payload" | "answer") {
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, &below("[]"), paths)),
        Value::Object(fields) => {
            for (name, field) in fields {
                let named = if last == "input_requests" { "<key>" } else { name };
                walk(field, &below(if is_uuid(name) { "<uuid>" } else { named }), paths);
            }
        }
        _ => {}
    }
}

/// What is in `old` and not in `new`, one line for each.
pub(crate) fn missing(old: &Shape, new: &Shape) -> Vec<String> {
    let mut lines = Vec::new();
    for (file, paths) in old {
        let Some(found) = new.get(file) else {
            // An older version of a state is brought up to date when it is read.
            let state = ["job", "batch"].map(state_of).into_iter().find(|state| file.starts_with(state));
            if state.is_some_and(|state| new.keys().any(|file| file.starts_with(&state))) {
                continue;
            }
            lines.push(format!("{file}: the whole file"));
            continue;
        };
        for (path, types) in paths {
            let seen = found.get(path).cloned().unwrap_or_default();
            lines.extend(types.difference(&seen).map(|kind| format!("{file}: {path} as {kind}")));
        }
    }
    lines
}

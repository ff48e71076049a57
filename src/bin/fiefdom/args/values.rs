//! Values that are written in a way of their own: tags, JSON, durations.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::failure::Failure;

pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".into()),
    }
}

/// The tags that were given, each once: an instance has one value for a key, so of two one would be
/// lost in silence.
pub(crate) fn unique(tags: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut unique = BTreeMap::new();
    for (key, value) in tags {
        if let Some(first) = unique.get(&key) {
            return Err(Failure::Usage(format!(
                "the tag {key:?} is given twice, as {first:?} and as {value:?}; give it once"
            )));
        }
        unique.insert(key, value);
    }
    Ok(unique)
}

pub(crate) fn json(text: &str) -> Result<serde_json::Value, String> {
    fiefdom::Untyped::parse(text).map_err(|e| {
        // What a shell left of it, most often.
        let word = !text.is_empty() && !text.starts_with(['{', '[', '"']);
        let hint = if word { r#"; a text stands in double quotes, and those in single ones: '"yes"'"# } else { "" };
        format!("{e}{hint}")
    })
}

/// `1h30m`, `90s`, `500ms`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number with ms, s, m, h or d, such as 90s or 1h30m".to_owned();
    if let Ok(seconds) = text.parse::<u64>() {
        return if seconds == 0 { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) };
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let one = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(86400),
            _ => return Err(wrong()),
        };
        total = one.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

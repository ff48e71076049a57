//! Strict reading of JSON: depth and duplicate keys, which `serde_json` lets pass. And JSON for files
//! in which a line is an entry. Values are never changed.

use std::collections::HashSet;
use std::{fmt, io};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::Error;

/// Deepest nesting of a state or an event's data. A record wraps it in one level more, a line of
/// the commit log in three, and `serde_json` reads 127 levels.
pub(crate) const MAX_DEPTH: usize = 120;

/// Checks that `bytes` are one JSON document without a duplicate key at any depth, nested at most
/// 127 levels (the recursion limit of `serde_json`). The error says where and what.
pub(crate) fn check(bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Walk.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Adds `value` as compact JSON on one line: also what a [`RawValue`](serde_json::value::RawValue) in it
/// holds, which `serde_json` writes as it is.
pub(crate) fn write_line<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, OneLine))
}

struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    /// Without the space between tokens.
    fn write_raw_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let (mut in_string, mut escaped) = (false, false);
        let is_token = |byte: &u8| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = !in_string,
                b' ' | b'\t' | b'\n' | b'\r' => return in_string,
                _ => {}
            }
            true
        };
        if fragment.bytes().any(|byte| byte.is_ascii_whitespace()) {
            writer.write_all(&fragment.bytes().filter(is_token).collect::<Vec<_>>())
        } else {
            writer.write_all(fragment.as_bytes())
        }
    }
}

/// How deep the brackets outside of strings are nested. `serde_json` does not count those in a part
/// that it keeps as raw text.
pub(crate) fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// The byte offset that a `serde_json` error (which counts lines and columns) points at.
pub(crate) fn offset_of(bytes: &[u8], error: &serde_json::Error) -> u64 {
    let lines = error.line().saturating_sub(1);
    let start: usize = bytes.split_inclusive(|b| *b == b'\n').take(lines).map(<[u8]>::len).sum();
    (start + error.column().saturating_sub(1)).min(bytes.len()) as u64
}

/// What the serializer said, as our error.
pub(crate) fn unserializable(field: &str, error: &serde_json::Error) -> Error {
    Error::Unserializable { field: field.to_owned(), reason: error.to_string() }
}

/// Visits every value and keeps none.
struct Walk;

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Walk)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            entries.next_value_seed(Walk)?;
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_found_at_any_depth() {
        assert!(check(br#"{"a":1,"b":{"a":1}}"#).is_ok());
        let error = check(br#"{"a":[{"b":1,"b":2}]}"#).expect_err("duplicate").to_string();
        assert!(error.contains("duplicate key \"b\""), "{error}");
    }

    #[test]
    fn deep_nesting_and_trailing_bytes_are_refused() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check(nested(MAX_DEPTH + 5).as_bytes()).is_ok());
        assert!(check(nested(1000).as_bytes()).is_err());
        assert!(check(b"{} {}").is_err());
        assert!(check(b"").is_err());
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[\"{"}],"c":[]}"#), 3);
        assert_eq!(depth(b"1"), 0);
    }

    #[test]
    fn the_offset_points_into_the_right_line() {
        let bytes = b"{\n  \"a\": 1,\n  \"a\" x\n}";
        let error = check(bytes).expect_err("broken");
        let offset = usize::try_from(offset_of(bytes, &error)).expect("small");
        assert_eq!(bytes[..offset].split(|b| *b == b'\n').count(), 3);
    }
}

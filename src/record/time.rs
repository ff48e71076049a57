//! Times as text: RFC 3339 in UTC, `2026-01-02T03:04:05.678901234Z`, with 0, 3, 6 or 9 digits of the
//! second, as many as are needed.
//!
//! It is what `chrono` writes for serde, to the letter; a commit holds several times, and through
//! the machinery of formatting they were a fifth of the instructions of an update.

use std::cell::Cell;

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Serialize, Serializer};

/// Longest text, in bytes.
const MAX: usize = "2026-01-02T03:04:05.678901234Z".len();

/// Seconds of a day.
const DAY: i64 = 86_400;

thread_local! {
    /// The last day that was written, in days since 1970, and its text: nearly every time is of today.
    static LAST: Cell<(i64, [u8; 10])> = const { Cell::new((0, *b"1970-01-01")) };
}

/// Writes a time; for `#[serde(serialize_with)]`.
pub(crate) fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut buffer = [0; MAX];
    match text(at, &mut buffer) {
        Some(text) => serializer.serialize_str(text),
        None => at.serialize(serializer),
    }
}

/// Adds a time as a JSON string.
pub(crate) fn write(at: &DateTime<Utc>, json: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    match text(at, &mut [0; MAX]) {
        Some(text) => {
            json.push(b'"');
            json.extend_from_slice(text.as_bytes());
            json.push(b'"');
            Ok(())
        }
        None => serde_json::to_writer(json, at),
    }
}

/// A time that writes itself as text.
pub(crate) struct Time<'a>(pub(crate) &'a DateTime<Utc>);

impl Serialize for Time<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(self.0, serializer)
    }
}

/// `None` for what has another form: years of more or fewer than four digits, leap seconds.
fn text<'a>(at: &DateTime<Utc>, buffer: &'a mut [u8; MAX]) -> Option<&'a str> {
    let nanos = Some(at.timestamp_subsec_nanos()).filter(|nanos| *nanos < 1_000_000_000)?;
    let day = at.timestamp().div_euclid(DAY);
    let second = u32::try_from(at.timestamp().rem_euclid(DAY)).ok()?;
    buffer.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    buffer[..10].copy_from_slice(&date(day, at)?);
    put(&mut buffer[11..13], second / 3600);
    put(&mut buffer[14..16], second / 60 % 60);
    put(&mut buffer[17..19], second % 60);
    put(&mut buffer[20..29], nanos);
    let end = match nanos {
        0 => 19,
        _ if nanos % 1_000_000 == 0 => 23,
        _ if nanos % 1_000 == 0 => 26,
        _ => 29,
    };
    buffer[end] = b'Z';
    std::str::from_utf8(&buffer[..=end]).ok()
}

/// The day of a time as `2026-01-02`, when its year has four digits.
fn date(day: i64, at: &DateTime<Utc>) -> Option<[u8; 10]> {
    let last = LAST.get();
    if last.0 == day {
        return Some(last.1);
    }
    let date = at.date_naive();
    let mut text = *b"0000-00-00";
    put(&mut text[0..4], u32::try_from(date.year()).ok().filter(|year| *year <= 9999)?);
    put(&mut text[5..7], date.month());
    put(&mut text[8..10], date.day());
    LAST.set((day, text));
    Some(text)
}

/// Puts the last digits of a number into their places.
fn put(places: &mut [u8], mut number: u32) {
    for place in places.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(at: DateTime<Utc>) -> [String; 2] {
        [serde_json::to_string(&Time(&at)).expect("text"), serde_json::to_string(&at).expect("text")]
    }

    #[test]
    fn a_time_is_written_as_chrono_writes_it_at_the_edges() {
        let edges = [
            DateTime::<Utc>::MIN_UTC,
            DateTime::<Utc>::MAX_UTC,
            DateTime::UNIX_EPOCH,
            "0000-01-01T00:00:00Z".parse().expect("a time"),
            "9999-12-31T23:59:59.999999999Z".parse().expect("a time"),
            "2016-12-31T23:59:60.5Z".parse().expect("a leap second"),
            "2026-02-28T00:00:00.100Z".parse().expect("a time"),
            "2024-02-29T12:30:09.000001Z".parse().expect("a time"),
        ];
        for at in edges {
            let [ours, theirs] = both(at);
            assert_eq!(ours, theirs);
        }
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_chrono_writes_it(
            seconds in -70_000_000_000_i64..260_000_000_000,
            nanos in 0..1_000_000_000_u32,
            unit in prop::sample::select(vec![1, 1_000, 1_000_000, 1_000_000_000]),
        ) {
            let [ours, theirs] = both(DateTime::from_timestamp(seconds, nanos / unit * unit).expect("a time"));
            prop_assert_eq!(ours, theirs);
        }
    }
}

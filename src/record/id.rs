//! The one place where an instance id is checked. No file is looked at for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Longest id, in bytes. With the longest suffix that the store appends to an id (in the trash) a
/// name stays under the 255 bytes that Linux file systems allow.
const MAX_LEN: usize = 128;

/// Names that Windows reserves for devices, with or without an extension. A store may be copied
/// there, so they are refused everywhere.
const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];

/// The name of an instance, and of its directory: `^[a-z0-9][a-z0-9._-]{0,127}$`, without `..`,
/// without a trailing dot, and not a name that Windows reserves (`con`, `lpt1`, `nul.txt`).
///
/// A value of this type has been checked, so it can never leave the `instances/` directory.
///
/// ```
/// use fiefdom::InstanceId;
///
/// let id: InstanceId = "build-42".parse()?;
/// assert_eq!(id.as_str(), "build-42");
/// assert!("../etc".parse::<InstanceId>().is_err());
/// # Ok::<(), fiefdom::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(std::sync::Arc<str>);

impl InstanceId {
    /// Checks `id` and wraps it.
    ///
    /// ```
    /// use fiefdom::{Error, InstanceId};
    ///
    /// assert_eq!(InstanceId::new("build-42")?.as_str(), "build-42");
    /// assert!(matches!(InstanceId::new("Build 42"), Err(Error::InvalidId { .. })));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidId`] with the rule that is broken.
    pub fn new(id: &str) -> Result<Self> {
        match broken_rule(id) {
            None => Ok(Self(id.into())),
            Some(reason) => Err(Error::InvalidId { id: shorten(id), reason }),
        }
    }

    /// A new id that was never used: a time-ordered `UUIDv7`, so that ids sort by creation.
    ///
    /// ```
    /// use fiefdom::InstanceId;
    ///
    /// let (first, second) = (InstanceId::generate(), InstanceId::generate());
    /// assert!(first < second);
    /// ```
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// A new id `<prefix>-<UUIDv7>`. The prefix has at most 91 bytes.
    ///
    /// ```
    /// use fiefdom::InstanceId;
    ///
    /// let id = InstanceId::generate_with_prefix("nightly")?;
    /// assert!(id.as_str().starts_with("nightly-"));
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidId`] when the prefix breaks the rules of an id, or is too long.
    pub fn generate_with_prefix(prefix: &str) -> Result<Self> {
        Self::new(&format!("{prefix}-{}", Uuid::now_v7()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An id from outside, cut so that an error message stays readable.
fn shorten(id: &str) -> String {
    if id.chars().count() <= MAX_LEN { id.to_owned() } else { id.chars().take(MAX_LEN).chain(['…']).collect() }
}

fn broken_rule(id: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() {
        return Some("it is empty");
    }
    if id.len() > MAX_LEN {
        return Some("it is longer than 128 bytes");
    }
    if !id.bytes().all(allowed) {
        return Some("only a-z, 0-9, '.', '_' and '-' are allowed");
    }
    if !id.as_bytes()[0].is_ascii_alphanumeric() {
        return Some("the first character must be a-z or 0-9");
    }
    if id.contains("..") {
        return Some("it contains '..'");
    }
    if id.ends_with('.') {
        return Some("it ends with a dot");
    }
    let stem = id.split('.').next().unwrap_or(id);
    let numbered =
        (stem.starts_with("com") || stem.starts_with("lpt")) && stem.len() == 4 && stem.as_bytes()[3].is_ascii_digit();
    if numbered || RESERVED.contains(&stem) {
        return Some("the name is reserved on Windows");
    }
    None
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl AsRef<str> for InstanceId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        Self::new(id)
    }
}

impl TryFrom<&str> for InstanceId {
    type Error = Error;

    fn try_from(id: &str) -> Result<Self> {
        Self::new(id)
    }
}

impl Serialize for InstanceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&id).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ids_pass() {
        let longest = "a".repeat(128);
        for id in ["a", "0", "build-42", "a.b_c-d", "v1.2.3", "com10", "console", longest.as_str()] {
            assert!(InstanceId::new(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn bad_ids_are_refused_with_the_rule() {
        let too_long = "a".repeat(129);
        let cases = [
            ("", "empty"),
            (too_long.as_str(), "longer"),
            ("A", "only"),
            ("a/b", "only"),
            ("a b", "only"),
            ("ä", "only"),
            ("a\0", "only"),
            (".a", "first"),
            ("-a", "first"),
            ("a..b", ".."),
            ("a.", "dot"),
            ("con", "Windows"),
            ("nul.txt", "Windows"),
            ("lpt1", "Windows"),
        ];
        for (id, rule) in cases {
            let error = InstanceId::new(id).expect_err(id).to_string();
            assert!(error.contains(rule), "{id}: {error}");
        }
    }

    #[test]
    fn generated_ids_are_valid_and_in_order_of_time() {
        let mut ids: Vec<_> = (0..1000).map(|_| InstanceId::generate()).collect();
        let made = ids.clone();
        ids.sort();
        assert_eq!(ids, made);
        assert!(InstanceId::generate_with_prefix("job").is_ok_and(|id| id.as_str().starts_with("job-")));
        assert!(InstanceId::generate_with_prefix("../x").is_err());
    }

    #[test]
    fn an_id_is_checked_when_it_is_read_from_json() {
        assert!(serde_json::from_str::<InstanceId>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<InstanceId>("\"../up\"").is_err());
    }
}

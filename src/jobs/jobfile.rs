//! The job file of the command line tool: one job per line.
//!
//! ```text
//! # a comment; blank lines are skipped too
//! make -C docs
//! {"id": "tests", "cmd": "cargo test", "env": {"CI": "1"}, "tags": {"kind": "check"}}
//! ```
//!
//! A line beginning with `{` is a JSON object, any other line a shell command.
//! Indentation never changes what a line means, so a shell group such as
//! `{ a; b; }` has to be written as a JSON object or after another command
//! (`:; { a; b; }`). Lines may end with a carriage return, and the file may
//! begin with a byte order mark: editors on Windows write both.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::record::BATCH_TAG;

/// The longest line in bytes, its end not counted: Linux takes no argument of a
/// program longer than 128 KiB with its closing NUL (`MAX_ARG_STRLEN`), and a
/// command is handed to the shell as one argument.
pub(super) const MAX_LINE_BYTES: usize = 128 * 1024 - 1;

/// The largest number of jobs in one file.
pub(super) const MAX_JOBS: usize = 1_000_000;

/// The largest number of problems described one by one.
pub(super) const MAX_PROBLEMS: usize = 20;

/// Names of environment variables with this beginning belong to fiefdom.
pub(super) const RESERVED_ENV_PREFIX: &str = "FIEFDOM_";

/// One job of a job file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLine {
    /// The line it stands on, counted from 1.
    pub line: usize,
    /// The id, when the file gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The shell command; never empty, never with a NUL character.
    pub cmd: String,
    /// Environment variables to set besides those the runner has itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels, of no meaning to fiefdom.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// One thing wrong with a job file; its text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct JobFileProblem {
    /// The line, counted from 1; `None` when it concerns the whole file.
    pub line: Option<usize>,
    /// The character of the line, counted from 1, when one is known.
    pub column: Option<usize>,
    /// A sentence on what is wrong and what to do, without the place.
    pub message: String,
}

impl fmt::Display for JobFileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "line {line}: ")?,
            (None, _) => {}
        }
        f.write_str(&self.message)
    }
}

impl JobFileProblem {
    /// A problem of one line as a whole.
    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { line: Some(line), column: None, message: message.into() }
    }

    /// A problem of the file as a whole.
    fn of_file(message: impl Into<String>) -> Self {
        Self { line: None, column: None, message: message.into() }
    }
}

/// Reads a whole job file: one job per line, a shell command or a JSON object. Blank lines
/// and those that begin with `#` are skipped. `check_id` says whether an id given in the file
/// can be one, and if not, why ("an id holds no blanks"). A line has 131 071 bytes at most,
/// and a file 1 000 000 jobs.
///
/// ```
/// use fiefdom::InstanceId;
/// use fiefdom::jobs::parse_job_file;
///
/// let text = "make -C docs\n{\"id\": \"tests\", \"cmd\": \"cargo test\"}\n";
/// let check_id = |id: &str| InstanceId::new(id).map(drop).map_err(|error| error.to_string());
/// let jobs = parse_job_file(text, check_id).expect("it is well formed");
/// assert_eq!((jobs[0].cmd.as_str(), jobs[1].id.as_deref()), ("make -C docs", Some("tests")));
///
/// let problems = parse_job_file("{\"id\": \"tests\"}", check_id).expect_err("it has no command");
/// assert_eq!(problems[0].line, Some(1));
/// ```
/// # Errors
///
/// All problems of the file in the order of its lines, up to
/// 20 of them and then one more entry, without a line, that says
/// how many others there are. Of one line only the first problem is told. The
/// list is never empty.
pub fn parse(
    text: impl AsRef<[u8]>,
    check_id: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<JobLine>, Vec<JobFileProblem>> {
    let text = text.as_ref();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut jobs = Vec::new();
    let mut problems = Problems::default();
    for (index, bytes) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        match parse_line(line, bytes, &check_id) {
            Ok(None) => {}
            Ok(Some(_)) if jobs.len() == MAX_JOBS => {
                // Reading on could only fill the memory.
                problems
                    .add(JobFileProblem::at(line, format!("a job file holds at most {MAX_JOBS} jobs; split it here.")));
                break;
            }
            Ok(Some(job)) => jobs.push(job),
            Err(problem) => problems.add(problem),
        }
    }
    find_duplicates(&jobs, &mut problems);
    if jobs.is_empty() && problems.total == 0 {
        problems.add(JobFileProblem::of_file(
            "the file holds no job; write one shell command or one JSON object with \"cmd\" \
             on each line.",
        ));
    }
    if problems.total == 0 { Ok(jobs) } else { Err(problems.into_list()) }
}

/// The job on one line, or `None` for a blank line or a comment.
fn parse_line(
    line: usize,
    bytes: &[u8],
    check_id: &impl Fn(&str) -> Result<(), String>,
) -> Result<Option<JobLine>, JobFileProblem> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.len() > MAX_LINE_BYTES {
        return Err(JobFileProblem::at(
            line,
            format!(
                "the line is {} bytes long and {MAX_LINE_BYTES} is the most; put the command \
                 into a script and call that.",
                bytes.len()
            ),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| JobFileProblem {
        line: Some(line),
        // All before valid_up_to is text, so the lossy reading counts exactly.
        column: Some(String::from_utf8_lossy(&bytes[..error.valid_up_to()]).chars().count() + 1),
        message: "the line is not UTF-8 text; save the file as UTF-8.".into(),
    })?;
    if let Some(at) = text.find('\0') {
        return Err(JobFileProblem {
            line: Some(line),
            column: Some(text[..at].chars().count() + 1),
            message: "the line holds a NUL byte, which no command can; remove it.".into(),
        });
    }
    let job = text.trim_start();
    if job.is_empty() || job.starts_with('#') {
        return Ok(None);
    }
    if !job.starts_with('{') {
        return Ok(Some(JobLine { line, id: None, cmd: job.to_owned(), env: BTreeMap::new(), tags: BTreeMap::new() }));
    }
    let object: JobObject = serde_json::from_str(job).map_err(|error| {
        let indent = text.len() - job.len();
        json_problem(line, text, indent, &error)
    })?;
    if let Some(id) = &object.id {
        check_id(id).map_err(|why| JobFileProblem::at(line, format!("the id {id:?} cannot be used: {why}")))?;
    }
    Ok(Some(JobLine { line, id: object.id, cmd: object.cmd, env: object.env, tags: object.tags }))
}

/// Turns what `serde_json` says of one line into a problem with a hint.
fn json_problem(line: usize, text: &str, indent: usize, error: &serde_json::Error) -> JobFileProblem {
    let full = error.to_string();
    // serde_json repeats the place, counted in the one line it was given.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = full.strip_suffix(&place).unwrap_or(&full);
    // Its columns are bytes; people count characters. Column 0 means that no
    // byte had been taken yet.
    let end = (indent + error.column()).clamp(1, text.len());
    let column = text.as_bytes()[..end].iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
    let hint = if error.is_data() {
        "correct it to the form {\"id\": \"a\", \"cmd\": \"make\", \"env\": {}, \"tags\": {}}, \
         of which only \"cmd\" is required."
    } else {
        "a line beginning with { is read as one JSON object; correct it, or write a shell group \
         as {\"cmd\": \"{ a; b; }\"}."
    };
    JobFileProblem { line: Some(line), column: Some(column), message: format!("{what}; {hint}") }
}

/// Reports every id that an earlier line has already.
fn find_duplicates(jobs: &[JobLine], problems: &mut Problems) {
    let ids = jobs.iter().filter(|job| job.id.is_some()).count();
    // Sized at once: growing would hash every id several times over.
    let mut first_lines: HashMap<&str, usize> = HashMap::with_capacity(ids);
    for job in jobs {
        let Some(id) = &job.id else { continue };
        // The first line of an id stays in the map, so a third use names it too.
        let first = *first_lines.entry(id).or_insert(job.line);
        if first != job.line {
            problems.add(JobFileProblem::at(
                job.line,
                format!("the id {id:?} is already that of line {first}; give one of them another."),
            ));
        }
    }
}

/// The first problems by line, and how many there were.
#[derive(Default)]
struct Problems {
    first: Vec<JobFileProblem>,
    total: usize,
}

impl Problems {
    /// Takes one in. The two passes over the file each come in the order of the
    /// lines but one after the other, so each has its place searched.
    fn add(&mut self, problem: JobFileProblem) {
        self.total += 1;
        let at = self.first.partition_point(|earlier| earlier.line <= problem.line);
        if at < MAX_PROBLEMS {
            self.first.insert(at, problem);
            self.first.truncate(MAX_PROBLEMS);
        }
    }

    /// The list for the caller.
    fn into_list(mut self) -> Vec<JobFileProblem> {
        let more = self.total - self.first.len();
        if more > 0 {
            self.first
                .push(JobFileProblem::of_file(format!("{more} more problems are not shown; correct these first.")));
        }
        self.first
    }
}

/// A job as a JSON object. The derived code refuses unknown and repeated keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobObject {
    #[serde(default)]
    id: Option<String>,
    #[serde(deserialize_with = "command")]
    cmd: String,
    #[serde(default, deserialize_with = "environment")]
    env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "tags")]
    tags: BTreeMap<String, String>,
}

/// Reads a command. Checking while reading gives the error its column.
fn command<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let command = String::deserialize(from)?;
    if command.trim().is_empty() {
        return Err(D::Error::custom("\"cmd\" is empty"));
    }
    no_nul(&command, "\"cmd\"").map_err(D::Error::custom)?;
    Ok(command)
}

/// Reads the environment variables.
fn environment<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_map(UniqueKeys(|name: &str| {
        let mut bytes = name.bytes();
        let head = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !head || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            Err(format!(
                "{name:?} is no name of an environment variable: letters, digits and _ make one, \
                 and no digit begins it"
            ))
        } else if name.starts_with(RESERVED_ENV_PREFIX) {
            Err(format!("the environment variable {name} is reserved, as all {RESERVED_ENV_PREFIX}* are"))
        } else {
            Ok(())
        }
    }))
}

/// Reads the tags.
fn tags<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_map(UniqueKeys(|name: &str| {
        if name == BATCH_TAG {
            return Err(format!("the tag {BATCH_TAG:?} is reserved: it names the batch of the job"));
        }
        no_nul(name, "a tag")
    }))
}

/// Refuses the NUL character, which JSON can write as `\u0000` but neither an
/// argument nor an environment can hold.
fn no_nul(text: &str, what: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err(format!("{what} holds the NUL character \\u0000"));
    }
    Ok(())
}

/// Reads a map from text to text in which no key stands twice (a plain map
/// would keep the last one silently) and each passes the given check.
struct UniqueKeys<F>(F);

impl<'de, F: Fn(&str) -> Result<(), String>> Visitor<'de> for UniqueKeys<F> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with texts as values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            (self.0)(&key).map_err(A::Error::custom)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            let value: String = access.next_value()?;
            no_nul(&value, "a value").map_err(A::Error::custom)?;
            map.insert(key, value);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests;

//! What went wrong, and the exit code for it.

use std::fmt;
use std::io;

use fiefdom::Error;
use fiefdom::jobs::JobFileProblem;

pub(crate) const DONE: u8 = 0;
/// The work itself failed.
pub(crate) const WORK: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const LOCKED: u8 = 4;
pub(crate) const STORE: u8 = 5;
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub(crate) enum Failure {
    Store(Error),
    /// The command line or its input is wrong, in a sentence that says what would be right.
    Usage(String),
    /// A file of jobs is wrong.
    Jobs {
        file: String,
        problems: Vec<JobFileProblem>,
    },
    /// Standard output cannot be written.
    Output(io::Error),
    /// Standard output is closed: its reader has enough.
    ClosedPipe,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Store(error) => code_of(error),
            Self::Usage(_) | Self::Jobs { .. } => USAGE,
            Self::Output(_) => STORE,
            Self::ClosedPipe => DONE,
        }
    }
}

/// The exit code for an error of the store.
pub(crate) fn code_of(error: &Error) -> u8 {
    match error {
        Error::NotFound { .. } => NOT_FOUND,
        Error::Locked { .. } => LOCKED,
        Error::InvalidId { .. }
        | Error::InvalidInput { .. }
        | Error::AlreadyExists { .. }
        | Error::TooLarge { .. }
        | Error::Unserializable { .. }
        | Error::Transition { .. }
        | Error::KindMismatch { .. }
        | Error::Rejected { .. } => USAGE,
        _ => STORE,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Usage(message) => f.write_str(message),
            Self::Jobs { file, problems } => {
                writeln!(f, "{file} cannot be run, and nothing was started:")?;
                for problem in problems {
                    writeln!(f, "  {problem}")?;
                }
                write!(f, "mend the file and run it again; `fiefdom run --help` shows what a line may be")
            }
            Self::Output(error) => write!(f, "could not write to standard output: {error}"),
            Self::ClosedPipe => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ClosedPipe } else { Self::Output(error) }
    }
}

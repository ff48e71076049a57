//! How a job ended. Nothing is waited for here.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// How the shell of a job ended: exactly one of the two is given.
///
/// When a program that the shell ran was killed by signal *n*, the shell as a
/// rule ends with exit code 128 + *n*; a `signal` means that the shell itself was
/// killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// The exit code, 0 to 255; 0 means success.
    pub(crate) code: Option<i32>,
    /// The number of the signal that killed the shell.
    pub(crate) signal: Option<i32>,
}

impl Exit {
    /// Whether the job ended with exit code 0.
    #[must_use]
    pub(crate) fn success(self) -> bool {
        self.code == Some(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => match name(signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            (None, None) => f.write_str("ended in an unknown way"),
        }
    }
}

/// The name of a signal without `SIG`; numbers differ between systems, so rustix
/// gives them.
fn name(number: i32) -> Option<&'static str> {
    const NAMES: [(Signal, &str); 19] = [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::ILL, "ILL"),
        (Signal::TRAP, "TRAP"),
        (Signal::ABORT, "ABRT"),
        (Signal::BUS, "BUS"),
        (Signal::FPE, "FPE"),
        (Signal::KILL, "KILL"),
        (Signal::USR1, "USR1"),
        (Signal::SEGV, "SEGV"),
        (Signal::USR2, "USR2"),
        (Signal::PIPE, "PIPE"),
        (Signal::ALARM, "ALRM"),
        (Signal::TERM, "TERM"),
        (Signal::XCPU, "XCPU"),
        (Signal::XFSZ, "XFSZ"),
        (Signal::VTALARM, "VTALRM"),
        (Signal::SYS, "SYS"),
    ];
    NAMES.iter().find(|(signal, _)| signal.as_raw() == number).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_shown_in_words() {
        let shown = |raw| Exit::from(ExitStatus::from_raw(raw)).to_string();
        assert_eq!(shown(3 << 8), "exit code 3");
        assert_eq!(shown(9), "killed by signal 9 (KILL)");
        // With the bit for a core dump.
        assert_eq!(shown(11 + 128), "killed by signal 11 (SEGV)");
        assert_eq!(shown(50), "killed by signal 50");
    }
}

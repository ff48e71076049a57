//! The lifecycle, and the one table of its transitions. Who moves an instance, and when, is not its
//! concern.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where an instance is in its life.
///
/// ```text
///              ┌──────────────── put back, tried again ───────────────┐
///              v                                                      │
/// pending -> starting -> running <-> waiting | paused                 │
///    │          │           ├-> interrupted (the process died) ───────┤
///    │          │           ├-> failed, cancelled (final) ────────────┘
///    └──────────┴─────────> └-> succeeded (final, for good)
/// ```
///
/// [`Status::can_become`] is the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Made, and not begun (or put back to be tried again).
    Pending,
    /// Being set up.
    Starting,
    /// At work.
    Running,
    /// Waiting for somebody's answer.
    Waiting,
    /// Held by a person.
    Paused,
    /// Its process died, or was told to stop, while it was at work. It can go on.
    Interrupted,
    /// Done. Final: nothing comes after it.
    Succeeded,
    /// Given up. Final, unless somebody puts it back to `pending`.
    Failed,
    /// Called off. Final, unless somebody puts it back to `pending`.
    Cancelled,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Interrupted,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether an instance in this status may become `next`. Staying where it is is always allowed
    /// (it changes the reason alone).
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// assert!(Status::Failed.can_become(Status::Pending)); // to try it again
    /// assert!(!Status::Succeeded.can_become(Status::Running));
    /// ```
    #[must_use]
    pub const fn can_become(self, next: Self) -> bool {
        use Status::{Cancelled, Failed, Interrupted, Paused, Pending, Running, Starting, Succeeded, Waiting};
        match self {
            Pending => !matches!(next, Waiting | Interrupted),
            Starting => !matches!(next, Waiting | Paused),
            Running => !matches!(next, Starting),
            Waiting => !matches!(next, Starting | Pending),
            Paused => !matches!(next, Starting | Waiting),
            Interrupted => !matches!(next, Waiting | Paused),
            Succeeded => matches!(next, Succeeded),
            Failed => matches!(next, Failed | Pending),
            Cancelled => matches!(next, Cancelled | Pending),
        }
    }

    /// Whether the life is over: `succeeded`, `failed` or `cancelled`.
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// let over: Vec<_> = Status::ALL.into_iter().filter(|status| status.is_final()).collect();
    /// assert_eq!(over, [Status::Succeeded, Status::Failed, Status::Cancelled]);
    /// ```
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether a process is at work on it, so that the death of that process interrupts it:
    /// `starting` or `running`.
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// assert!(Status::Running.is_running());
    /// assert!(!Status::Waiting.is_running()); // nobody loses work with its process
    /// ```
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    /// The name, as it is stored.
    ///
    /// ```
    /// use fiefdom::Status;
    ///
    /// assert_eq!(Status::Interrupted.as_str(), "interrupted");
    /// assert_eq!("interrupted".parse::<Status>()?, Status::Interrupted);
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Interrupted => "interrupted",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Status {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| Error::InvalidInput {
            what: "status",
            reason: format!("{text:?} is none; use one of {}", names()),
        })
    }
}

fn names() -> String {
    Status::ALL.map(Status::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, row by row, so that no cell changes unseen.
    #[test]
    fn the_transition_table_is_this_one() {
        let allowed: [(Status, &str); 9] = [
            (Status::Pending, "pending starting running paused succeeded failed cancelled"),
            (Status::Starting, "pending starting running interrupted succeeded failed cancelled"),
            (Status::Running, "pending running waiting paused interrupted succeeded failed cancelled"),
            (Status::Waiting, "running waiting paused interrupted succeeded failed cancelled"),
            (Status::Paused, "pending running paused interrupted succeeded failed cancelled"),
            (Status::Interrupted, "pending starting running interrupted succeeded failed cancelled"),
            (Status::Succeeded, "succeeded"),
            (Status::Failed, "pending failed"),
            (Status::Cancelled, "pending cancelled"),
        ];
        for (from, to) in allowed {
            let found: Vec<_> =
                Status::ALL.into_iter().filter(|next| from.can_become(*next)).map(Status::as_str).collect();
            assert_eq!(found.join(" "), to, "from {from}");
        }
    }

    #[test]
    fn every_name_reads_back() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse::<Status>().ok(), Some(status));
            assert_eq!(serde_json::to_string(&status).ok(), Some(format!("\"{status}\"")));
        }
        assert!("Running".parse::<Status>().is_err());
    }
}

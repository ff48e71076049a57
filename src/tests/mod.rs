//! The store on a model disk: every crash point, every failing call.
//!
//! What runs here is the library from activation down to the system calls, without threads, so that
//! each run of the same operations makes the same calls. `tests/` has the same promises on real
//! disks, with real processes.

/// Says what a test has shown, past the capture of its output: the figures belong in the log of CI.
macro_rules! shown {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "shown: {}", format_args!($($what)*));
    }};
}
pub(crate) use shown;

mod crash;
mod damage;
mod errors;
mod full;
#[allow(dead_code, reason = "tests/tracing.rs uses the rest")]
#[path = "../../tests/common/listener.rs"]
mod listener;
mod mutants;
mod network;
mod observed;
mod process;
mod random;
mod state_file;
mod tail;
#[allow(dead_code, reason = "tests/metrics.rs uses the rest")]
#[path = "../../tests/common/tally.rs"]
pub(crate) mod tally;
mod two_processes;
mod world;

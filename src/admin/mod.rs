//! Looking after a root as a whole.

mod doctor;
mod examine;

pub use doctor::{Doctor, Finding, Outcome, Repair, Report, Severity};

//! The store on a model disk: every crash point, every failing call.
//!
//! What runs here is the library from activation down to the system calls, without threads, so that
//! each run of the same operations makes the same calls. `tests/` has the same promises on real
//! disks, with real processes.

mod crash;
mod damage;
mod errors;
mod full;
mod mutants;
mod process;
mod random;
mod two_processes;
mod world;

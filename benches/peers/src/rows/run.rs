//! `fiefdom run` beside GNU parallel, `xargs` and pueue: the same commands, two at once.
//!
//! On few processors it is their time that decides, so each list of commands has two rows: the rate,
//! and the processor time of a job with everything that is done for it.

mod tools;

use super::{Bound, Goal};
use crate::harness::{Contender, Figure, Outcome, Row, Setting};
use tools::{Commands, Spent};

pub use tools::child;

const OURS: &str = "fiefdom run -j 2";
const OURS_OS: &str = "the same, Durability::Os";
const PARALLEL: &str = "GNU parallel -j 2 --results --joblog";
const XARGS_SH: &str = "xargs -P2, each through sh -c";
const XARGS_BARE: &str = "xargs -P2 -n1, without a shell";
const PUEUE: &str = "pueue, parallel limit 2";
const LIMIT: &str = "limit: spawn and wait for sh -c from two threads";

const MISSED_PARALLEL: &str = "GNU parallel keeps output and outcome of a job too, but flushes nothing. The end of a job \
    becomes durable while the next one runs; its beginning does not: it is taken, its instance made, its shell started and \
    its process put on disk, one after the other and over several threads, while nothing of it runs, and the processors are \
    idle for about a third of the time. A commit that would be content with less waits for the flush that another job has \
    under way. To make the instance of the next job ahead, in the order of the \
    list, was built and measured: 9 % more, and a job that has not begun would be seen as one that waits.";
const MISSED_XARGS: &str = "xargs keeps nothing: no output, no outcome, no place to go on from, and its jobs live on when \
    it is killed. A job of ours takes about twice the processor time of the shell alone (an instance with four \
    directories and five files, four commits, an actor): with both processors busy all the time that alone would give \
    about half of its rate. Waiting takes the rest.";

/// How much of a list pueue is given: each command is added by a process of its own, and it begins
/// them some times a second.
const PUEUE_PART: usize = 20;

type Tool = fn(&Setting, &Commands) -> Outcome<Option<Spent>>;

/// In the order of the report.
const TOOLS: [(&str, Tool); 6] = [
    (OURS, tools::fiefdom),
    (OURS_OS, tools::fiefdom_os),
    (PARALLEL, tools::parallel),
    (XARGS_SH, tools::xargs_sh),
    (PUEUE, |setting, commands| tools::pueue(setting, &commands.part(PUEUE_PART))),
    (LIMIT, |_, commands| tools::threads(commands)),
];

pub fn rows() -> Vec<Row> {
    let bare: (&str, Tool) = (XARGS_BARE, tools::xargs_bare);
    let row =
        |name: &'static str, title, unit, commands: fn(&Setting) -> Outcome<Commands>, value: fn(&Spent) -> f64| {
            // It knows one program only.
            let tools = TOOLS.into_iter().chain(name.starts_with("run-true").then_some(bare));
            let contender = |(series, tool): (&'static str, Tool)| -> Contender {
                Box::new(move |setting| {
                    let spent = tool(setting, &commands(setting)?)?;
                    if spent.is_none() {
                        eprintln!("{series}: not installed, left out");
                    }
                    Ok(spent.iter().map(|spent| Figure::new(series, value(spent))).collect())
                })
            };
            Row { name, title, unit, axis: None, at_most: 5, contenders: tools.map(contender).collect() }
        };
    vec![
        row("run-true", "2 000 times `true`, two at once", "jobs/s", tools::trues, Spent::rate),
        row("run-true-cpu", "the same: processor time of a job", "ms", tools::trues, Spent::processor_ms),
        row("run-real", "200 real commands of some milliseconds, two at once", "jobs/s", tools::real, Spent::rate),
        row("run-real-cpu", "the same: processor time of a job", "ms", tools::real, Spent::processor_ms),
    ]
}

pub fn goals() -> Vec<Goal> {
    let goal = |theirs, ratio, if_missed| Goal {
        row: "run-true",
        ours: OURS,
        theirs: Some(theirs),
        bound: Bound::AtLeast(ratio),
        if_missed,
    };
    vec![goal(PARALLEL, 3.0, MISSED_PARALLEL), goal(XARGS_SH, 0.75, MISSED_XARGS)]
}

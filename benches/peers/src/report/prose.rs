//! What the report says in words.

/// The beginning of the page.
pub const INTRODUCTION: &str = "\
How fast fiefdom is, beside what people would use instead: every contender in the same run, on the same machine, on \
the same disk, at a durability that is stated. This page is generated from the figures in `benches/peers/results/`; \
edit the program in `benches/peers/`, not the page. No figure is a promise: machines and disks differ, by a factor of ten and more where a \
flush is concerned. Ratios travel better.";

/// The items of "How to read it".
pub const READING: &[&str] = &[
    "**Rounds.** All contenders of a table take turns, round after round, so that what the machine does meanwhile meets \
     all of them. A figure is the median of the rounds, with the smallest and the largest in brackets: `median [least–most]`.",
    "**Ratios** are ours divided by theirs in the same round: the median of these ratios, and the smallest and the \
     largest. Of a rate (a unit that ends in `/s`) more is better, of anything else less is. *Ahead* and *behind* are said \
     when every round agrees; *level* when they do not. A contender that is behind stands in the tables like one that is ahead.",
    "**Durability.** *On disk* means that the caller is answered after the bytes are flushed (`fdatasync`): they survive a \
     power cut. *Os* means after they are written: they survive the death of the process, and no power cut. Two contenders \
     are alike only when they promise the same; where a peer promises less, its name says so.",
    "**Load.** A caller waits for its reply before it calls again. A document has about 200 bytes unless it is said \
     otherwise. Times are the wall clock divided by the operations of all callers, unless it is said that they are latencies.",
    "**Pictures** show the same figures: ours in colour and the peers in grey, and thin lines from the smallest to the \
     largest round. Where cost is shown as it grows both axes are logarithmic.",
];

/// How the figures come about.
pub const RUNNING: &str = "\
`just bench DIR NAME` builds the release binary and the crate of the comparison, measures in `DIR` (by default below \
`target/`), writes the figures to `benches/peers/results/NAME.json`, and then this page. `just bench-quick` is a short look \
that writes neither. `just bench-paths` runs the criterion benchmarks of single paths, for day-to-day comparison. The \
machine should have nothing else to do.";

/// The sections of the page, in its order.
pub const SUBJECTS: &[Subject] = &[
    Subject {
        heading: "Updates",
        rows: &["update", "latency"],
        says: "A change of the typed state of an instance: the closure runs on a copy, the commit goes to the log, and the \
               caller is answered when it is durable. The files of the instance follow, within a tenth of a second while the disk keeps up.",
    },
    Subject {
        heading: "Reads",
        rows: &["read", "state"],
        says: "A read of a live instance takes the record that was published last. It goes through no mailbox.",
    },
    Subject {
        heading: "Creations",
        rows: &["creat"],
        says: "A creation makes a directory, and is acknowledged when the name of the directory and the first commit are on disk.",
    },
    Subject {
        heading: "Events",
        rows: &["event", "append", "follow"],
        says: "An event is a line of 200 bytes at the end of the log of its instance, durable before the reply. Followers see \
               it when it is durable, and not before.",
    },
    Subject {
        heading: "Scale",
        rows: &["scale", "activat", "idle", "memory", "million", "list", "open", "recover"],
        says: "What many instances cost while nobody uses them, and what the first use of one costs.",
    },
    Subject {
        heading: "Load",
        rows: &["load", "tail", "sustained"],
        says: "What happens over time, with the log going round and the files being written.",
    },
    Subject {
        heading: "Running jobs",
        rows: &["run", "job"],
        says: "`fiefdom run` beside what runs lists of commands. fiefdom makes every step of every job durable; the others \
               record less or nothing.",
    },
    Subject {
        heading: "Shapes of cost",
        rows: &["shape"],
        says: "What a cost depends on, and what it does not: a quantity is multiplied, and the cost is looked at. A line that \
               is level means that the quantity does not matter.",
    },
];

/// Rows whose names begin alike.
pub struct Subject {
    pub heading: &'static str,
    pub rows: &'static [&'static str],
    pub says: &'static str,
}

/// For rows that belong nowhere else.
pub const OTHER: Subject = Subject { heading: "Other", rows: &[], says: "" };

impl Subject {
    /// Where a row belongs.
    pub fn of(row: &str) -> &'static Self {
        SUBJECTS.iter().find(|subject| subject.rows.iter().any(|begin| row.starts_with(begin))).unwrap_or(&OTHER)
    }
}

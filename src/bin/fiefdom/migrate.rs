//! `migrate`: instances of the kinds that this tool knows, brought up to its version.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use fiefdom::{DataRoot, Migrated, MigrationOutcome, Store, Untyped, View, jobs};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::Migrate;
use crate::edit::need_root;
use crate::failure::{DONE, Failure, INTERRUPTED, code_of};
use crate::output::{Output, plain, say};

pub(crate) async fn migrate(root: DataRoot, out: Output, args: Migrate) -> Result<u8, Failure> {
    args.ids.iter().try_for_each(|id| need_root(&root, id))?;
    let migration = if args.all { jobs::migration() } else { jobs::migration().only(unique(args.ids)) };
    let mut tally = Tally::new(out, args.dry_run);
    if args.dry_run || !root.path().exists() {
        for one in migration.rehearse(&View::open(root)?)? {
            tally.count(&one)?;
        }
        return tally.end();
    }
    let store = Store::open(root, Untyped).await?;
    let outcome = drive(&store, &migration, &mut tally).await;
    let closed = store.shutdown().await;
    let interrupted = outcome?;
    closed?;
    let code = tally.end()?;
    if interrupted {
        say("fiefdom: interrupted; run it again to go on");
    }
    Ok(if interrupted { INTERRUPTED } else { code })
}

/// Says whether it was interrupted.
async fn drive(store: &Store<Untyped>, migration: &fiefdom::Migration, tally: &mut Tally) -> Result<bool, Failure> {
    let mut run = migration.run(store).await?;
    tally.begin(run.total());
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        tokio::select! {
            one = run.next() => match one {
                Some(one) => tally.count(&one)?,
                None => return Ok(false),
            },
            _ = &mut interrupt => return Ok(true),
        }
    }
}

/// Each once: the second would only say that the first is done.
fn unique<T: Ord + Clone>(ids: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
}

/// What was found so far.
struct Tally {
    out: Output,
    dry_run: bool,
    bar: Option<ProgressBar>,
    migrated: u64,
    current: u64,
    locked: u64,
    failed: u64,
    unknown: u64,
    unknown_kinds: BTreeSet<String>,
    code: u8,
}

impl Tally {
    fn new(out: Output, dry_run: bool) -> Self {
        let (unknown_kinds, code) = (BTreeSet::new(), DONE);
        Self { out, dry_run, bar: None, migrated: 0, current: 0, locked: 0, failed: 0, unknown: 0, unknown_kinds, code }
    }

    fn begin(&mut self, total: usize) {
        self.bar = (!self.out.json && std::io::stderr().is_terminal()).then(|| {
            let template = "{bar:30.cyan} {pos}/{len}  {per_sec}  {elapsed_precise}  ETA {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total as u64).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
    }

    /// What needs no attention is counted and, but with `--json`, not printed.
    fn count(&mut self, one: &Migrated) -> Result<(), Failure> {
        let (word, error) = match &one.outcome {
            MigrationOutcome::Migrated => {
                self.migrated += 1;
                (if self.dry_run { "can migrate" } else { "migrated" }, None)
            }
            MigrationOutcome::Current => {
                self.current += 1;
                ("current", None)
            }
            MigrationOutcome::UnknownKind => {
                self.unknown += 1;
                self.unknown_kinds.insert(plain(&one.kind));
                ("unknown kind", None)
            }
            MigrationOutcome::Locked(error) => {
                self.locked += 1;
                ("locked", Some(error))
            }
            MigrationOutcome::Failed(error) => {
                self.failed += 1;
                ("failed", Some(error))
            }
            _ => ("done", None),
        };
        if let Some(error) = error {
            self.code = if self.code == DONE { code_of(error) } else { self.code };
        }
        let document = json!({
            "instance": one.id,
            "kind": one.kind,
            "from": one.from,
            "to": one.to,
            "outcome": word.replace(' ', "_"),
            "error": error.map(ToString::to_string),
        });
        let out = self.out;
        self.past_the_bar(|| {
            if let Some(error) = error {
                say(format!("fiefdom: {error}"));
            } else if matches!(one.outcome, MigrationOutcome::Migrated) {
                out.line(format!(
                    "{word}  {}  {} {} -> {}",
                    one.id,
                    plain(&one.kind),
                    one.from,
                    one.to.unwrap_or(one.from)
                ))?;
            }
            out.document(&document)
        })?;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        Ok(())
    }

    /// The bar is out of the way while something is printed.
    fn past_the_bar<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn end(self) -> Result<u8, Failure> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let Self { migrated, current, locked, failed, unknown, .. } = self;
        let kinds: Vec<String> = self.unknown_kinds.into_iter().collect();
        let verb = if self.dry_run { "can be migrated" } else { "migrated" };
        let mut parts = vec![format!("{migrated} {verb}"), format!("{current} current")];
        for (number, what) in [(locked, "locked"), (failed, "failed")] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        if unknown > 0 {
            parts.push(format!("{unknown} left to the programs that know their kinds ({})", kinds.join(", ")));
        }
        self.out.line(parts.join(", "))?;
        self.out.document(&json!({
            "dry_run": self.dry_run,
            "migrated": migrated,
            "current": current,
            "locked": locked,
            "failed": failed,
            "unknown_kind": unknown,
            "unknown_kinds": kinds,
        }))?;
        Ok(self.code)
    }
}

//! `gc`, `pin`, `unpin`: what may go, and what must not.

use std::io::IsTerminal as _;

use fiefdom::{DataRoot, GcReport, InstanceId, Retention, RetentionRule, View};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::{Gc, unique};
use crate::edit::{need_root, with_store};
use crate::failure::{DONE, Failure, WORK, code_of};
use crate::output::{Output, age, plain, say, status};

pub(crate) async fn gc(root: DataRoot, out: Output, args: Gc) -> Result<u8, Failure> {
    let policy = policy(&args)?;
    // A dry run changes nothing; and a root that is not there holds nothing to delete.
    let report = if args.dry_run || !root.path().exists() {
        let view = View::open(root)?;
        let _ = view.recover();
        let mut report = view.gc_dry_run(&policy)?;
        report.dry_run = args.dry_run;
        report
    } else {
        let bar = bar(out);
        let report = with_store(root, async |store| {
            let watch = |done: usize, total: usize| {
                if let Some(bar) = &bar {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
            };
            Ok(store.gc_watched(&policy, watch).await?)
        })
        .await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        report?
    };
    print(out, &report)?;
    let failed = report.refused.iter().any(|refused| matches!(refused.reason, fiefdom::RefusedReason::Failed(_)));
    Ok(if failed { WORK } else { DONE })
}

fn policy(args: &Gc) -> Result<Retention, Failure> {
    let mut rule = RetentionRule::new().keep(args.keep);
    if let Some(age) = args.older_than {
        rule = rule.older_than(age);
    }
    if let Some(kind) = &args.kind {
        rule = rule.kind(kind);
    }
    rule = args.status.iter().fold(rule, |rule, status| rule.status(*status));
    rule = unique(args.tag.clone())?.into_iter().fold(rule, |rule, (key, value)| rule.tag(key, value));
    Ok(Retention::new().rule(rule))
}

fn bar(out: Output) -> Option<ProgressBar> {
    (!out.json && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{bar:30.cyan} {pos}/{len}  {elapsed_precise}  ETA {eta}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    })
}

fn print(out: Output, report: &GcReport) -> Result<(), Failure> {
    let verb = if report.dry_run { "would delete" } else { "deleted" };
    let deleted = report.deleted.iter().map(|it| {
        let id = it.instance_id.to_string();
        vec![verb.to_owned(), id, status(it.status), age(it.ended_at), bytes(it.bytes), String::new()]
    });
    let refused = report.refused.iter().map(|it| {
        let dash = || "-".to_owned();
        let reason = plain(&it.reason.to_string());
        vec!["kept".to_owned(), it.instance_id.to_string(), dash(), dash(), dash(), reason]
    });
    let rows: Vec<Vec<String>> = deleted.chain(refused).collect();
    if !rows.is_empty() {
        out.table(&["", "ID", "STATUS", "ENDED", "SIZE", "WHY"], &rows)?;
    }
    out.line(format!(
        "{verb} {} of {} instances, {} freed; {} refused, {} kept as the newest",
        report.deleted.len(),
        report.looked_at,
        bytes(report.bytes_freed),
        report.refused.len(),
        report.kept
    ))?;
    out.document(report)
}

pub(crate) async fn pin(root: DataRoot, out: Output, ids: Vec<InstanceId>, pinned: bool) -> Result<u8, Failure> {
    let mut code = DONE;
    let mut changed = Vec::new();
    ids.iter().try_for_each(|id| need_root(&root, id))?;
    with_store(root, async |store| {
        for id in ids {
            let set = async {
                let instance = store.get(&id).await?;
                instance
                    .commit(move |tx| {
                        tx.set_pinned(pinned);
                        Ok(())
                    })
                    .await
            };
            match set.await {
                Ok(_) => changed.push(id),
                // The others are changed all the same.
                Err(error) => {
                    say(format!("fiefdom: {error}"));
                    code = if code == DONE { code_of(&error) } else { code };
                }
            }
        }
        Ok(())
    })
    .await?;
    let word = if pinned { "pinned" } else { "unpinned" };
    for id in &changed {
        out.line(format!("{word} {id}"))?;
    }
    out.document(&json!({ word: changed }))?;
    Ok(code)
}

/// A number of bytes, as short as it is clear: `512 B`, `1.5 KiB`, `20.0 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { indicatif::BinaryBytes(bytes).to_string() }
}

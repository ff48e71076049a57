//! `export` and `import`: an instance as one file, and back.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fiefdom::{DataRoot, Error, Exported, ImportOptions};
use indicatif::ProgressBar;

use crate::args::{Export, Import};
use crate::edit::with_store;
use crate::failure::{DONE, Failure, INTERRUPTED};
use crate::gc::bytes;
use crate::inspect;
use crate::output::{Output, plain, say};

/// Standard output or input, in the place of a file.
const STANDARD: &str = "-";

pub(crate) async fn export(root: DataRoot, out: Output, args: Export) -> Result<u8, Failure> {
    let view = inspect::open(root)?;
    let to_stdout = args.output == Path::new(STANDARD);
    if to_stdout && out.json {
        return Err(Failure::Usage("--json and -o - both want standard output; name a file".into()));
    }
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::Usage("standard output is a terminal; name a file, or redirect it".into()));
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let bar = (!to_stdout && !out.json && io::stderr().is_terminal()).then(ProgressBar::new_spinner);
    #[expect(clippy::disallowed_methods, reason = "the panic of a command is for its user")]
    let work = tokio::task::spawn_blocking({
        let stopped = Arc::clone(&stopped);
        move || {
            if to_stdout {
                return view.export(&args.id, io::stdout().lock()).map(|(_, exported)| exported);
            }
            view.export_file(&args.id, &args.output, |done| {
                if let Some(bar) = &bar {
                    bar.set_message(bytes(done));
                    bar.tick();
                }
                !stopped.load(Ordering::Relaxed)
            })
        }
    });
    let watched = async {
        // Ctrl-C: the file is not left half written, so the work ends by itself, soon. Standard output is
        // somebody else's: there the process just ends.
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.store(true, Ordering::Relaxed);
            if to_stdout {
                #[expect(clippy::disallowed_methods, reason = "nobody can wake a write to a pipe")]
                std::process::exit(INTERRUPTED.into());
            }
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        done = work => done.map_err(|error| Failure::Output(io::Error::other(error)))?,
        () = watched => return Ok(INTERRUPTED),
    };
    if outcome.is_err() && stopped.load(Ordering::Relaxed) {
        say("fiefdom: interrupted; nothing was written");
        return Ok(INTERRUPTED);
    }
    let exported = outcome.map_err(|error| closed_pipe(error, to_stdout))?;
    tell(out, &exported, to_stdout)?;
    Ok(DONE)
}

/// Whoever reads our output has enough of it.
fn closed_pipe(error: Error, to_stdout: bool) -> Failure {
    match error.io_kind() {
        Some(io::ErrorKind::BrokenPipe) if to_stdout => Failure::ClosedPipe,
        _ => Failure::Store(error),
    }
}

fn tell(out: Output, exported: &Exported, to_stdout: bool) -> Result<(), Failure> {
    for left in &exported.left_out {
        say(format!("fiefdom: {}: {}", plain(&left.path), left.reason));
    }
    let unlisted = exported.left_out_total - exported.left_out.len() as u64;
    if unlisted > 0 {
        say(format!("fiefdom: and {unlisted} more"));
    }
    if to_stdout {
        return Ok(());
    }
    out.line(format!(
        "exported {} revision {}: {} entries, {}",
        exported.instance_id,
        exported.revision,
        exported.entries,
        bytes(exported.bytes)
    ))?;
    out.document(exported)
}

pub(crate) async fn import(root: DataRoot, out: Output, args: Import) -> Result<u8, Failure> {
    let mut options = ImportOptions::default();
    options.id = args.id;
    options.max_bytes = args.max_bytes.unwrap_or(options.max_bytes);
    options.max_entries = args.max_entries.unwrap_or(options.max_entries);
    let reader: Box<dyn io::Read + Send> = if args.file == Path::new(STANDARD) {
        Box::new(io::stdin())
    } else {
        let file = File::open(&args.file).map_err(|error| {
            let file = args.file.display();
            Failure::Usage(format!("{file} cannot be read: {error}; name a file that `fiefdom export` wrote, or -"))
        })?;
        Box::new(file)
    };
    let work = with_store(root, async |store| Ok(store.import(reader, options).await?));
    let imported = tokio::select! {
        imported = work => imported?,
        // What is half unpacked is removed by the next command.
        Ok(()) = tokio::signal::ctrl_c() => {
            #[expect(clippy::disallowed_methods, reason = "nobody can wake a read from a pipe")]
            std::process::exit(INTERRUPTED.into());
        }
    };
    out.line(imported.instance_id.as_str())?;
    out.document(&imported)?;
    Ok(DONE)
}

//! Preferences of a user in one file: changed by several tasks of several processes at once, while one
//! of them crashes, and begun by an older version of the program.
//!
//! ```sh
//! cargo run --example user_state
//! ```
//!
//! The first argument is the file; without it that is `target/user_state/preferences.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fiefdom::{BoxError, FileState, StateFile};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PROCESSES: u32 = 4;
const TASKS: u32 = 5;

/// Version 2. In version 1 the theme was a flag, `"dark": true`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Preferences {
    theme: String,
    /// How often each project was opened.
    opened: BTreeMap<String, u64>,
}

impl FileState for Preferences {
    const KIND: &'static str = "preferences";
    const SCHEMA_VERSION: u32 = 2;

    fn migrate(from: u32, state: Value) -> Result<Value, BoxError> {
        match from {
            1 => Ok(json!({ "theme": if state["dark"] == true { "dark" } else { "light" }, "opened": {} })),
            _ => Err(format!("there is no version {from}").into()),
        }
    }

    /// People edit such files: what makes no sense is refused, with a sentence, and not overwritten.
    fn validate(&self) -> Result<(), BoxError> {
        if ["", "dark", "light"].contains(&self.theme.as_str()) { Ok(()) } else { Err("theme is dark or light".into()) }
    }
}

/// One process: its tasks each open a project. The first process crashes when it has seen to that.
async fn open_projects(file: StateFile<Preferences>, process: u32) -> Result<(), BoxError> {
    let tasks = (0..TASKS).map(|task| {
        let file = file.clone();
        tokio::spawn(async move {
            let project = format!("project-{task}");
            file.update(move |preferences| *preferences.opened.entry(project).or_default() += 1).await
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    if process == 0 {
        std::process::abort();
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args_os().skip(1);
    let path: PathBuf = args.next().unwrap_or_else(|| "target/user_state/preferences.json".into()).into();
    let file = StateFile::<Preferences>::at(&path);
    if let Some(process) = args.next() {
        return open_projects(file, process.to_str().ok_or("a number")?.parse()?).await;
    }
    left_by_version_1(&path)?;
    println!("the theme is {:?}", file.load().await?.theme);
    let program = std::env::current_exe()?;
    let start = |process: u32| Command::new(&program).arg(&path).arg(process.to_string()).spawn();
    for mut process in (0..PROCESSES).map(start).collect::<Result<Vec<_>, _>>()? {
        let status = process.wait()?;
        println!("a process ended, {}", if status.success() { "well" } else { "with a crash" });
    }
    for (project, times) in file.load().await?.opened {
        println!("{project} was opened {times} times");
    }
    Ok(())
}

/// Stands for the program of last year.
fn left_by_version_1(path: &Path) -> std::io::Result<()> {
    if let (false, Some(dir)) = (path.exists(), path.parent()) {
        std::fs::create_dir_all(dir)?;
        let text = json!({ "format": 1, "kind": "preferences", "schema_version": 1, "state": { "dark": true } });
        std::fs::write(path, text.to_string())?;
    }
    Ok(())
}

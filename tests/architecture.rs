//! The lines that ARCHITECTURE.md draws: what must not appear where.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

/// Every source file below `src/`, with its code: comments and unit tests left out.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("src/ is readable") {
            let path = entry.expect("src/ is readable").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.display().to_string().contains("/tests") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    assert!(paths.len() > 30, "the sources were not found");
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let name = path.strip_prefix(&src).expect("below src/").display().to_string();
            (name, code.join("\n"))
        })
        .collect()
}

/// Asserts that none of `words` appears outside `allowed` (prefixes of paths below `src/`).
fn only_in(words: &[&str], allowed: &[&str]) {
    for (name, code) in sources() {
        if allowed.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        for word in words {
            assert!(!code.contains(word), "src/{name} has {word:?}, which belongs in {allowed:?}");
        }
    }
}

/// Asserts that no file under `room` mentions any of `words`.
fn never_in(room: &str, words: &[&str]) {
    let mut seen = 0;
    for (name, code) in sources().into_iter().filter(|(name, _)| name.starts_with(room)) {
        seen += 1;
        for word in words {
            assert!(!code.contains(word), "src/{name} has {word:?}, and {room} must not know it");
        }
    }
    assert!(seen > 0, "there is no src/{room}");
}

#[test]
fn system_calls_on_the_store_stay_in_the_disk_layer() {
    // The tool reads what users give it, and a job's process and its output are not the store's.
    only_in(&["std::fs::", "rustix::fs", "tokio::fs"], &["disk/", "jobs/process", "jobs/command.rs", "bin/"]);
}

#[test]
fn the_runtime_s_own_file_type_is_nowhere() {
    only_in(&["tokio::fs"], &[]);
}

#[test]
fn the_actor_framework_stays_in_its_rooms() {
    only_in(&["ractor::"], &["actors/", "engine.rs", "store.rs"]);
}

#[test]
fn the_layers_point_one_way() {
    never_in(
        "record/",
        &["crate::disk", "crate::log", "crate::actors", "crate::engine", "crate::store", "tokio", "ractor"],
    );
    never_in(
        "disk/",
        &["crate::log", "crate::actors", "crate::engine", "crate::store", "crate::instance", "tokio", "ractor"],
    );
    never_in("log/", &["crate::actors", "crate::engine", "crate::store", "crate::instance", "crate::kind", "ractor"]);
    never_in(
        "admin/",
        &["crate::actors", "crate::engine", "crate::store", "crate::instance::", "crate::jobs", "tokio"],
    );
    never_in("log/", &["crate::admin"]);
    never_in("disk/", &["crate::admin"]);
    never_in("actors/", &["crate::store", "crate::instance", "crate::engine", "crate::view"]);
}

#[test]
fn file_names_are_spelled_in_one_place() {
    let names = [
        "\"instance.json\"",
        "\"events.jsonl\"",
        "\"instances\"",
        "\".fiefdom\"",
        "\"recovery.lock\"",
        "\"stdout.log\"",
        "\"items.jsonl\"",
    ];
    // The tool reads through the library; its JSON has keys that look like names.
    only_in(&names, &["disk/layout.rs", "bin/"]);
}

#[test]
fn nothing_gives_up_or_prints_behind_the_caller_s_back() {
    for (name, code) in sources() {
        if name.starts_with("bin/") {
            continue;
        }
        for word in [".unwrap()", ".expect(", "todo!", "unimplemented!", "println!", "dbg!"] {
            assert!(!code.contains(word), "src/{name} has {word}");
        }
    }
}

#[test]
fn the_library_is_the_same_whatever_the_features() {
    // Then its tests hold also without the command line, and only what links it has to be checked.
    only_in(&["feature = \""], &["bin/"]);
}

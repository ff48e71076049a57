//! The public interface does not change by accident: tests/public-api.txt lists it, from the source.
//!
//! The lint `unreachable_pub` is on, so what is `pub` in the source is the interface, and no tool is
//! needed to know it. Not held: what the compiler derives, such as `Send`. `just public-api` writes
//! the list anew.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The files of the library, without those of its tests.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src/ is readable") {
        let path = entry.expect("src/ is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["bin", "tests", "model", "fuzzing"].contains(&name.as_str()) {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !["tests.rs", "fuzzing.rs", "mutants.rs"].contains(&name.as_str())
        {
            found.push(path);
        }
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The lines from `at` to the end of the signature, or of the whole item, as one.
fn item(lines: &[&str], at: usize) -> String {
    let first = lines[at];
    let whole = ["pub enum ", "pub trait "].iter().any(|word| first.trim_start().starts_with(word));
    let mut text = String::new();
    for line in &lines[at..] {
        let (depth, code) = (indent(line) - indent(first), line.trim());
        // Of a trait the signatures: what is deeper is a body. Of an enum everything.
        let body = whole && depth > 4 && first.contains("trait ");
        if !body && !code.starts_with("//") && !code.starts_with("#[") {
            text.push_str(code.split(" // ").next().unwrap_or_default().trim());
            text.push(' ');
        }
        let open = |c| text.matches(c).count();
        let closed = open('(') == open(')') && open('[') == open(']');
        let end =
            if whole { depth == 0 && code.ends_with('}') } else { closed && code.ends_with([';', '{', '}', ',']) };
        if end {
            break;
        }
    }
    text.trim_end().trim_end_matches(['{', ';', ',']).trim_end().to_owned()
}

/// Every public item, with the `impl` or the type around it.
fn interface() -> BTreeSet<String> {
    let mut paths = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths);
    let mut found = BTreeSet::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a source file");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let (mut around, mut attributes) = (String::new(), String::new());
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if indent(line) == 0 && (code.starts_with("impl") || code.starts_with("pub ") || code.starts_with("pub(")) {
                code.split(['{', ';', '(']).next().unwrap_or_default().trim().clone_into(&mut around);
            }
            if code.starts_with("#[derive") || code == "#[non_exhaustive]" {
                attributes.push_str(code);
                attributes.push(' ');
            } else if code.starts_with("pub ") {
                let before = if indent(line) == 0 { String::new() } else { format!("{around} :: ") };
                found.insert(format!("{before}{attributes}{}", item(&lines, at)));
            }
            if !code.starts_with("#[") && !code.starts_with("//") {
                attributes.clear();
            }
        }
    }
    found
}

#[test]
fn the_public_interface_is_the_one_that_is_listed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public-api.txt");
    let found = interface();
    assert!(found.len() > 200, "the interface was not found");
    if std::env::var_os("FIEFDOM_BLESS").is_some() {
        let lines: Vec<&str> = found.iter().map(String::as_str).collect();
        std::fs::write(&file, lines.join("\n") + "\n").expect("written");
        return;
    }
    let listed = std::fs::read_to_string(&file).expect("the list");
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "the public interface has changed. If that is meant, `just public-api` lists it anew.\ngone: {gone:#?}\nnew: {new:#?}"
    );
}

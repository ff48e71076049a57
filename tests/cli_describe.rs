//! What the command line says of itself, and how it looks on a terminal.
#![allow(missing_docs)]

#[path = "common/cli.rs"]
mod cli;

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::process::{Command, Stdio};

use cli::{Fief, Ran, Started, bare};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Runs the tool without a root, as an installer or a shell that starts does.
fn alone(args: &[&str]) -> Ran {
    let mut command = bare();
    command.args(args);
    Started::new(command).end()
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = alone(&["--help"]).out;
    let listed = help.split_once("Commands:\n").and_then(|(_, rest)| rest.split_once("\n\n")).expect("commands").0;
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|n| !n.is_empty());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn completions_name_every_command_and_are_read_by_their_shell() {
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = alone(&["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        for word in commands.iter().map(String::as_str).chain(["dry-run", "root"]) {
            assert!(ran.out.contains(word), "{shell} is not told of {word}");
        }
        // Most machines have a bash. The others are read where they are installed.
        if ["bash", "zsh", "fish"].contains(&shell) {
            let read = Command::new(shell).arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut read = match read {
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => panic!("{shell}: {e}"),
            };
            read.stdin.take().expect("a pipe").write_all(ran.out.as_bytes()).expect("written");
            let read = read.wait_with_output().expect("waited");
            assert!(read.status.success() && read.stderr.is_empty(), "{shell}: {read:?}");
        }
    }
    alone(&["completions", "tcsh"]).failed(2, &["tcsh", "bash"]);
}

#[test]
fn bash_completes_a_command_and_its_options() {
    let script = alone(&["completions", "bash"]).out;
    let ask = |words: &[&str]| {
        let last = words.len() - 1;
        let before = if last > 0 { words[last - 1] } else { "" };
        let line = format!(
            "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={last}\n_fiefdom fiefdom '{}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words[last]
        );
        let asked = match Command::new("bash").args(["--norc", "-c", &line]).output() {
            Ok(asked) => asked,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => panic!("{e}"),
        };
        Some(String::from_utf8(asked.stdout).expect("UTF-8").lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let Some(commands) = ask(&["fiefdom", "al"]) else {
        eprintln!("skipped: there is no bash");
        return;
    };
    assert_eq!(commands, ["alarm", "alarms"]);
    assert_eq!(ask(&["fiefdom", "gc", "--older"]).expect("bash"), ["--older-than"]);
}

#[test]
fn there_is_a_man_page_of_the_tool_and_of_every_command() {
    let page = alone(&["man"]);
    assert_eq!((page.code, page.err.as_str()), (Some(0), ""));
    assert!(page.out.contains(".TH fiefdom 1") && page.out.contains("130 interrupted"), "{}", page.out);
    for command in commands() {
        assert!(page.out.contains(&format!("fiefdom\\-{command}(1)")), "the page does not name {command}");
        let own = alone(&["man", &command]);
        assert_eq!((own.code, own.err.as_str()), (Some(0), ""), "{command}");
        let heading = format!(".TH fiefdom-{command} 1  \"fiefdom {}\"", env!("CARGO_PKG_VERSION"));
        assert!(own.out.contains(&heading), "{command}: {}", own.out);
        assert!(own.out.contains("Example"), "{command}");
        assert!(own.out.contains("\\-\\-root"), "{command} has the options that all commands have");
    }
    alone(&["man", "nosuch"]).failed(2, &["nosuch", "fiefdom --help"]);
    alone(&["--json", "man"]).failed(2, &["leave --json out"]);
}

/// Runs the tool on a terminal of so many columns; returns what appears on it.
fn on_terminal(fief: &Fief, columns: u16, environment: &[(&str, &str)], args: &[&str]) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("granted");
    unlockpt(&master).expect("unlocked");
    let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("UTF-8");
    let screen = File::options().read(true).write(true).open(name).expect("opened");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen, size).expect("sized");
    let mut command = fief.command(args);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm").envs(environment.iter().copied()).stdin(Stdio::null());
    command.stdout(screen.try_clone().expect("a descriptor")).stderr(screen);
    let mut child = command.spawn().expect("it starts");
    // The command holds the terminal's other end open; without it the reading ends.
    drop(command);
    let (mut master, mut seen) = (File::from(master), Vec::new());
    // Linux says EIO when the last process has closed its end.
    let _ = master.read_to_end(&mut seen);
    assert!(child.wait().expect("waited").code().is_some(), "it ended by itself");
    String::from_utf8(seen).expect("UTF-8")
}

/// A root with an instance that failed, for a reason that no terminal is wide enough for.
fn failed() -> Fief {
    let fief = Fief::new();
    fief.ok(["create", "a", "--kind", "thing"]);
    let reason = "größer und größer ".repeat(12);
    fief.ok(["update", "a", "--status", "failed", "--reason", &reason]);
    fief.ok(["create", "an-instance-with-a-rather-long-id", "--tag", &format!("k={}", "v".repeat(60))]);
    fief
}

#[test]
fn a_terminal_gets_colours_unless_its_user_says_no() {
    let fief = failed();
    let coloured = |environment: &[(&str, &str)]| on_terminal(&fief, 80, environment, &["ls"]).contains('\u{1b}');
    assert!(coloured(&[]));
    assert!(!coloured(&[("NO_COLOR", "1")]));
    assert!(!coloured(&[("CLICOLOR", "0")]));
    assert!(!coloured(&[("TERM", "dumb")]));
    assert!(on_terminal(&fief, 80, &[], &["ls"]).contains("\u{1b}[31mfailed"), "in red");
    for args in [["show", "a"], ["gc", "--help"]] {
        assert!(!on_terminal(&fief, 80, &[("NO_COLOR", "1")], &args).contains('\u{1b}'), "{args:?}");
    }
}

#[test]
fn what_is_logged_is_coloured_on_a_terminal_and_nowhere_else() {
    let fief = failed();
    let args = ["-vvv", "append", "a", "seen"];
    let piped = fief.run(args);
    assert!(piped.err.contains("TRACE") || piped.err.contains("DEBUG"), "it logs something: {piped:?}");
    assert!(!piped.err.contains('\u{1b}'), "{piped:?}");
    assert!(on_terminal(&fief, 80, &[], &args).contains('\u{1b}'));
    assert!(!on_terminal(&fief, 80, &[("NO_COLOR", "1")], &args).contains('\u{1b}'));
}

#[test]
fn a_table_is_as_wide_as_its_terminal() {
    let fief = failed();
    for columns in [20, 60, 200] {
        let seen = on_terminal(&fief, columns, &[("NO_COLOR", "1")], &["ls"]);
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines.len(), 3, "{seen}");
        for line in &lines {
            assert!(line.chars().count() <= usize::from(columns), "{columns} columns: {line:?}");
        }
        assert!(lines[2].ends_with('…') && lines[2].chars().count() == usize::from(columns), "{seen}");
    }
    // Cut with its colour, which ends with it.
    let seen = on_terminal(&fief, 30, &[], &["ls"]);
    assert_eq!(
        seen.matches("\u{1b}[31m").count() + seen.matches("\u{1b}[1m").count(),
        seen.matches("\u{1b}[0m").count()
    );
    let piped = fief.ok(["ls"]);
    assert!(piped.contains(&"größer und größer ".repeat(11)), "a program gets it whole: {piped}");
}

#[test]
fn the_help_fits_its_terminal() {
    let fief = Fief::new();
    for command in commands() {
        let help = on_terminal(&fief, 80, &[("NO_COLOR", "1")], &[&command, "--help"]);
        assert!(help.lines().count() > 5, "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{command} --help: {line}");
        }
    }
}

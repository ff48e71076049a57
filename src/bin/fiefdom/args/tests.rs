//! What the help shows is what can be said.

use super::*;

#[test]
fn the_definition_of_the_command_line_is_sound() {
    use clap::CommandFactory as _;
    Args::command().debug_assert();
}

/// The commands with what stands below their options.
fn helps() -> Vec<(String, String)> {
    use clap::CommandFactory as _;
    let after = |c: &clap::Command| c.get_after_help().map(ToString::to_string).unwrap_or_default();
    Args::command().get_subcommands().map(|c| (c.get_name().to_owned(), after(c))).collect()
}

/// The words of a command in a shell, up to a pipe, a redirection or the next command.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is one").push(c),
        }
    }
    words.into_iter().take_while(|word| !["|", "&&", ">"].contains(&word.as_str())).collect()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    for (name, help) in helps() {
        let example = format!("fiefdom {name} ");
        let shown = help.split_once("Example").is_some_and(|(_, examples)| {
            format!("{examples} ").replace(['\n'], " ").replace("--json ", "").contains(&example)
        });
        assert!(shown, "`fiefdom {name} --help` shows no example of itself: {help:?}");
    }
}

#[test]
fn the_help_below_the_options_fits_80_columns() {
    use clap::CommandFactory as _;
    let tool = Args::command().get_after_help().map(ToString::to_string).expect("the tool's own");
    for (name, help) in helps().into_iter().chain([("the tool".to_owned(), tool)]) {
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{name}: the terminal breaks {line:?}");
        }
    }
}

#[test]
fn every_example_of_the_help_is_a_command_line() {
    let mut tried = 0;
    for (name, help) in helps() {
        let (_, examples) = help.split_once("Example").expect("an example");
        for line in examples.lines() {
            for (at, _) in line.match_indices("fiefdom ") {
                let words = words(&line[at..]);
                let read = Args::try_parse_from(&words);
                assert!(read.is_ok(), "{name}: {words:?}: {}", read.err().map_or_else(String::new, |e| e.to_string()));
                tried += 1;
            }
        }
    }
    assert!(tried >= helps().len(), "{tried}");
}

#[test]
fn durations_are_read_and_nonsense_is_refused() {
    assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
    assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    for wrong in ["", "0", "s", "5x", "-1s", "5m3", "0s", "99999999999h", "1.5s"] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
}

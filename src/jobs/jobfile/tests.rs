use super::*;

/// Ids for the tests: no blanks.
fn no_blanks(id: &str) -> Result<(), String> {
    if id.contains(' ') { Err("an id holds no blanks.".into()) } else { Ok(()) }
}

fn jobs(text: impl AsRef<[u8]>) -> Vec<JobLine> {
    parse(text, no_blanks).unwrap()
}

/// The problems as shown to a person.
fn problems(text: impl AsRef<[u8]>) -> Vec<String> {
    parse(text, no_blanks).unwrap_err().iter().map(ToString::to_string).collect()
}

/// Asserts one problem that begins and goes on as given.
#[track_caller]
fn assert_problem(text: impl AsRef<[u8]>, begin: &str, part: &str) {
    let found = problems(text);
    assert!(
        found.len() == 1 && found[0].starts_with(begin) && found[0].contains(part),
        "expected {begin:?} … {part:?}, found {found:#?}"
    );
}

#[test]
fn lines_are_commands_objects_or_nothing() {
    let found = jobs(
        "# a comment\n\n  make -C docs # not a comment\r\n\t\n  # indented\n\
         {\"id\":\"t\",\"cmd\":\"a\\nb\",\"env\":{\"_A1\":\"x\"},\"tags\":{\"k k\":\"v\"}}\n\
         :; { a; b; }  ",
    );
    let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let plain =
        |line, cmd: &str| JobLine { line, id: None, cmd: cmd.into(), env: BTreeMap::new(), tags: BTreeMap::new() };
    let object =
        JobLine { line: 6, id: Some("t".into()), cmd: "a\nb".into(), env: map("_A1", "x"), tags: map("k k", "v") };
    assert_eq!(found, [plain(3, "make -C docs # not a comment"), object, plain(7, ":; { a; b; }  ")]);
}

#[test]
fn a_byte_order_mark_belongs_to_no_command() {
    assert_eq!(jobs("\u{feff}{\"cmd\":\"a\"}")[0].cmd, "a");
}

#[test]
fn a_job_line_survives_serialization() {
    let found = jobs("a\n{\"id\":\"i\",\"cmd\":\"b\",\"env\":{\"A\":\"1\"}}\n");
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Vec<JobLine>>(&text).unwrap(), found);
    assert_eq!(serde_json::to_string(&found[0]).unwrap(), r#"{"line":1,"cmd":"a"}"#);
}

#[test]
fn a_file_without_a_job_is_a_problem_of_the_file() {
    assert_problem("", "the file holds no job;", "write one shell command");
    assert_problem("# only\n\n  \n", "the file holds no job;", "");
    // Nothing is said of it when a line shows what was meant.
    assert_problem("# only\n{\n", "line 2, column 1: ", "EOF");
}

#[test]
fn json_that_is_wrong_is_told_with_its_column() {
    assert_problem("a\n  {\"cmd\": nope}", "line 2, column 12: expected ident", "correct it");
    assert_problem("{ echo a; }", "line 1, column 3: ", "write a shell group as {\"cmd\"");
    assert_problem("{\"cmd\":\"a\"} x", "line 1, column 13: trailing characters", "");
    // Columns count characters, not bytes.
    assert_problem("{\"cmd\":\"äöü\" x}", "line 1, column 14: ", "");
}

#[test]
fn fields_that_are_missing_unknown_or_of_the_wrong_kind_are_told() {
    assert_problem("{}", "line 1, column 2: missing field `cmd`;", "only \"cmd\" is required");
    assert_problem("{\"cmd\":\"a\",\"dir\":\"b\"}", "line 1, column 16: unknown field `dir`", "");
    assert_problem("{\"cmd\":[\"a\"]}", "line 1, column ", "expected a string");
    assert_problem("{\"cmd\":\"a\",\"env\":{\"A\":1}}", "line 1, column ", "expected a string");
    assert_problem("{\"cmd\":\"a\",\"env\":[]}", "line 1, column ", "an object with texts");
    assert_problem("{\"cmd\":\" \"}", "line 1, column ", "\"cmd\" is empty");
}

#[test]
fn a_key_that_stands_twice_is_refused_at_every_depth() {
    assert_problem("{\"cmd\":\"a\",\"cmd\":\"b\"}", "line 1, column ", "duplicate field `cmd`");
    for map in ["env", "tags"] {
        let text = format!("{{\"cmd\":\"a\",\"{map}\":{{\"A\":\"1\",\"A\":\"2\"}}}}");
        assert_problem(text, "line 1, column ", "the key \"A\" stands twice");
    }
}

#[test]
fn names_of_environment_variables_are_checked() {
    for name in ["", "1A", "A-B", "A B", "Ä", "A=", "A\\u0000"] {
        let text = format!("{{\"cmd\":\"a\",\"env\":{{\"{name}\":\"1\"}}}}");
        assert_problem(text, "line 1, column ", "is no name of an environment variable");
    }
    let reserved = "{\"cmd\":\"a\",\"env\":{\"FIEFDOM_X\":\"1\"}}";
    assert_problem(reserved, "line 1, column ", "FIEFDOM_X is reserved");
    // Tags are no variables.
    jobs("{\"cmd\":\"a\",\"tags\":{\"FIEFDOM_X\":\"1\",\"a-b\":\"\"}}");
}

#[test]
fn nul_is_refused_as_a_byte_and_as_an_escape() {
    assert_problem("é\0", "line 1, column 2: the line holds a NUL byte", "remove it");
    let escaped = [
        "{\"cmd\":\"a\\u0000\"}",
        "{\"cmd\":\"a\",\"env\":{\"A\":\"\\u0000\"}}",
        "{\"cmd\":\"a\",\"tags\":{\"\\u0000\":\"\"}}",
        "{\"cmd\":\"a\",\"tags\":{\"a\":\"\\u0000\"}}",
    ];
    for text in escaped {
        assert_problem(text, "line 1, column ", "holds the NUL character");
    }
}

#[test]
fn bytes_that_are_no_utf8_are_told_with_their_place() {
    assert_problem(b"a\n\xc3\xa9b\xffc\n", "line 2, column 3: the line is not UTF-8", "save");
}

#[test]
fn ids_are_checked_by_the_caller_and_unique() {
    assert_problem("{\"id\":\"a b\",\"cmd\":\"x\"}", "line 1: the id \"a b\" cannot", "no blanks");
    let line = "{\"id\":\"a\",\"cmd\":\"x\"}\n";
    let found = problems(format!("{line}y\n{line}{line}"));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("line 3: the id \"a\" is already that of line 1;"));
    assert!(found[1].starts_with("line 4: the id \"a\" is already that of line 1;"));
}

#[test]
fn a_line_may_be_as_long_as_an_argument_and_no_longer() {
    let longest = "x".repeat(MAX_LINE_BYTES);
    assert_eq!(jobs(&longest)[0].cmd.len(), MAX_LINE_BYTES);
    jobs(format!("{longest}\r\n"));
    assert_problem(format!("{longest}x"), "line 1: the line is 131072 bytes", "into a script");
}

#[test]
fn the_first_twenty_problems_are_told_in_order_and_the_others_counted() {
    let mut text = String::from("{\"id\":\"a\",\"cmd\":\"x\"}\n{\"id\":\"a\",\"cmd\":\"x\"}\n");
    text.push_str(&"{\n".repeat(30));
    let found = parse(text, no_blanks).unwrap_err();
    let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
    let expected: Vec<_> = (2..=21).map(Some).chain([None]).collect();
    assert_eq!(lines, expected);
    assert_eq!(found[20].to_string(), "11 more problems are not shown; correct these first.");
}

#[test]
fn a_million_jobs_are_taken_and_not_one_more() {
    let mut text = "x\n".repeat(MAX_JOBS);
    assert_eq!(jobs(&text).len(), MAX_JOBS);
    text.push_str("x\nx\n");
    assert_problem(&text, "line 1000001: a job file holds at most 1000000 jobs", "split");
}

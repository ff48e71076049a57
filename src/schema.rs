//! JSON schemas: is this one, and does a value fit it?
//!
//! No schema is ever fetched, and the patterns in it run in linear time: an answer that somebody
//! typed can neither reach the network nor keep a thread busy.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::error::{Error, Result};

/// Most violations that an error tells of.
const VIOLATIONS: usize = 5;

/// Longest text about one of them, in characters.
const VIOLATION_CHARS: usize = 300;

/// Most memory for the patterns of a schema, in bytes, each.
const PATTERN_BYTES: usize = 1 << 20;

fn compile(schema: &Value) -> Result<Validator> {
    let options = jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES));
    options.build(schema).map_err(|error| {
        let at = place(&error.instance_path().to_string());
        let reason = format!(
            "it is not a JSON schema that can be used: {at}: {}; no schema is fetched from elsewhere, and patterns have neither look-around nor back-references",
            shorten(&error.to_string())
        );
        Error::InvalidInput { what: "schema", reason }
    })
}

/// Checks that it is a schema, and needs no other.
pub(crate) fn check(schema: &Value) -> Result<()> {
    compile(schema).map(drop)
}

/// Checks that a value fits a schema; the error says where it does not.
pub(crate) fn validate(schema: &Value, value: &Value) -> Result<()> {
    let validator = compile(schema)?;
    let mut violations: Vec<String> = validator
        .iter_errors(value)
        .take(VIOLATIONS + 1)
        .map(|error| {
            let at = place(&error.instance_path().to_string());
            let rule = error.schema_path().to_string();
            format!("{at}: {} (schema {})", shorten(&error.to_string()), place(&rule))
        })
        .collect();
    if violations.is_empty() {
        return Ok(());
    }
    if violations.len() > VIOLATIONS {
        violations.truncate(VIOLATIONS);
        violations.push("and more".into());
    }
    Err(Error::InvalidInput {
        what: "answer",
        reason: format!("it does not fit the schema: {}; give one that fits", violations.join("; ")),
    })
}

/// A JSON pointer in words: an empty one is the whole document.
fn place(pointer: &str) -> String {
    if pointer.is_empty() { "at the top".into() } else { format!("at {pointer}") }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= VIOLATION_CHARS {
        text.to_owned()
    } else {
        text.chars().take(VIOLATION_CHARS).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_violation_is_told_with_its_place_in_the_answer_and_in_the_schema() {
        let schema = json!({"type": "object", "properties": {"port": {"type": "integer", "maximum": 65535}}});
        assert!(validate(&schema, &json!({"port": 80})).is_ok());
        let error = validate(&schema, &json!({"port": 70000})).expect_err("too large").to_string();
        assert!(error.contains("at /port") && error.contains("/properties/port/maximum"), "{error}");
        let error = validate(&schema, &json!([])).expect_err("no object").to_string();
        assert!(error.contains("at the top"), "{error}");
    }

    #[test]
    fn of_many_violations_the_first_are_told_and_no_text_is_long() {
        let schema = json!({"items": {"const": 1}});
        let answer = json!(vec!["x".repeat(10_000); 100]);
        let error = validate(&schema, &answer).expect_err("all wrong").to_string();
        assert!(error.len() < 4_000 && error.ends_with("and more; give one that fits"), "{} bytes", error.len());
    }

    #[test]
    fn what_is_no_schema_or_needs_another_is_refused() {
        let cases = [
            (json!({"type": "wat"}), "at /type"),
            (json!(7), "at the top"),
            (json!({"$ref": "http://127.0.0.1:9/x.json"}), "fetch"),
            (json!({"$ref": "file:///etc/hostname"}), "fetch"),
            (json!({"$schema": "http://127.0.0.1:9/mine"}), "meta-schema"),
            (json!({"$ref": "#/nowhere"}), "nowhere"),
            (json!({"pattern": "(?=x)"}), "at /pattern"),
            (json!({"pattern": "((a{1,500}){1,500}){1,500}"}), "at /pattern"),
        ];
        for (schema, words) in cases {
            let error = check(&schema).expect_err("refused").to_string();
            assert!(error.contains(words), "{schema}: {error}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        for schema in [json!({"$ref": "#"}), json!({"allOf": [{"$ref": "#"}]})] {
            assert!(validate(&schema, &json!("x")).is_ok());
        }
    }
}

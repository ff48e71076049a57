//! Bringing a stored state up to date: steps in order, each from one version to the next. Pure.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{BoxError, panic_message};

/// One step: from this version to the next.
pub(crate) type Step = fn(u32, Value) -> Result<Value, BoxError>;

/// The state as the type of version `to`, from the text of version `from`. The version is compared
/// before the text is looked at: one that is newer is not ours to read. A step, or a `Deserialize`,
/// that panics is an error like another.
///
/// # Errors
///
/// A sentence that says what went wrong, and what to do.
pub(crate) fn up_to_date<T: DeserializeOwned>(state: &RawValue, from: u32, to: u32, step: Step) -> Result<T, String> {
    if from > to {
        return Err(format!("it has version {from}, which is newer; use a newer version of the program"));
    }
    if from == to {
        return guarded("reading it", || serde_json::from_str(state.get()).map_err(|e| e.to_string()));
    }
    let mut value: Value = serde_json::from_str(state.get()).map_err(|e| e.to_string())?;
    for version in from..to {
        let what = format!("the migration from version {version}");
        let next = guarded(&what, || step(version, value).map_err(|e| format!("{what} failed: {e}")));
        value = next?;
    }
    guarded("reading it after its migration", || {
        serde_json::from_value(value).map_err(|e| format!("after its migration it does not fit: {e}"))
    })
}

/// Runs code of the user's.
fn guarded<T>(what: &str, run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(format!("{what} panicked: {}", panic_message(&*panic))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes each version that it is called with.
    fn note(from: u32, mut state: Value) -> Result<Value, BoxError> {
        match (from, state.as_array_mut()) {
            (7, _) => Err("there is no way from 7".into()),
            (8, _) => panic!("a bug in step 8"),
            (_, Some(seen)) => {
                seen.push(from.into());
                Ok(state)
            }
            _ => Err("it is no list".into()),
        }
    }

    fn run(text: &str, from: u32, to: u32) -> Result<Vec<u32>, String> {
        let raw = RawValue::from_string(text.to_owned()).expect("JSON");
        up_to_date(&raw, from, to, note)
    }

    #[test]
    fn the_steps_run_once_each_in_order() {
        assert_eq!(run("[]", 2, 5), Ok(vec![2, 3, 4]));
        assert_eq!(run("[9]", 5, 5), Ok(vec![9]));
    }

    #[test]
    fn a_step_that_fails_or_panics_is_named() {
        let failed = run("[]", 6, 9).expect_err("no way");
        assert_eq!(failed, "the migration from version 7 failed: there is no way from 7");
        let panicked = run("[]", 8, 9).expect_err("a panic");
        assert_eq!(panicked, "the migration from version 8 panicked: a bug in step 8");
    }

    #[test]
    fn a_newer_state_is_refused_before_it_is_looked_at() {
        let refused = run("{\"not\": \"a list\"}", 6, 5).expect_err("newer");
        assert!(refused.contains("it has version 6, which is newer"), "{refused}");
    }

    #[test]
    fn what_does_not_fit_after_the_last_step_is_an_error() {
        let raw = RawValue::from_string("[]".to_owned()).expect("JSON");
        let refused = up_to_date::<String>(&raw, 1, 2, note).expect_err("a list is no text");
        assert!(refused.contains("after its migration it does not fit"), "{refused}");
    }
}

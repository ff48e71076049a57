//! Commands that change one instance: `create`, `update`, `append`, `rm`.

use fiefdom::{DataRoot, InstanceId, NewInstance, Store, Untyped, View};
use serde_json::{Value, json};

use crate::args::{Append, Create, Rm, Update, unique};
use crate::failure::{DONE, Failure, code_of};
use crate::output::{Output, say};

/// Says that there is no such instance when there is not even a root, rather than making one: a
/// mistyped root leaves nothing behind.
pub(crate) fn need_root(root: &DataRoot, id: &InstanceId) -> Result<(), Failure> {
    if !root.path().exists() {
        View::open(root.clone())?.record(id)?;
    }
    Ok(())
}

/// Runs `work` on an open store, and shuts it down whatever comes of it.
pub(crate) async fn with_store<T>(
    root: DataRoot,
    work: impl AsyncFnOnce(&Store<Untyped>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let store = Store::open(root, Untyped).await?;
    let outcome = work(&store).await;
    let closed = store.shutdown().await;
    let outcome = outcome?;
    closed?;
    Ok(outcome)
}

pub(crate) async fn create(root: DataRoot, out: Output, args: Create) -> Result<u8, Failure> {
    let mut new = args.id.map_or_else(NewInstance::new, NewInstance::with_id).input(args.state);
    if let Some(name) = args.name {
        new = new.name(name);
    }
    if let Some(kind) = args.kind {
        new = new.kind(kind);
    }
    let new = unique(args.tag)?.into_iter().fold(new, |new, (key, value)| new.tag(key, value));
    let record = with_store(root, async |store| Ok(store.create(new).await?.record().await?)).await?;
    out.line(record.id.as_str())?;
    out.document(&*record)?;
    Ok(DONE)
}

pub(crate) async fn update(root: DataRoot, out: Output, args: Update) -> Result<u8, Failure> {
    let Update { id, merge, status, reason } = args;
    need_root(&root, &id)?;
    let record = with_store(root, async |store| {
        let instance = store.get(&id).await?;
        instance
            .commit(move |tx| {
                if let Some(patch) = merge {
                    merge_patch(tx.state_mut(), patch);
                }
                if let Some(status) = status {
                    tx.set_status(status, reason.as_deref())?;
                }
                Ok(())
            })
            .await?;
        Ok(instance.record().await?)
    })
    .await?;
    out.line(format!("{} revision {} {}", record.id, record.revision, record.status))?;
    out.document(&*record)?;
    Ok(DONE)
}

pub(crate) async fn append(root: DataRoot, out: Output, args: Append) -> Result<u8, Failure> {
    need_root(&root, &args.id)?;
    let seq =
        with_store(root, async |store| Ok(store.get(&args.id).await?.append(&args.kind, args.data).await?)).await?;
    out.line(seq.to_string())?;
    out.document(&json!({ "seq": seq }))?;
    Ok(DONE)
}

pub(crate) async fn remove(root: DataRoot, out: Output, args: Rm) -> Result<u8, Failure> {
    let mut code = DONE;
    let mut removed = Vec::new();
    args.ids.iter().try_for_each(|id| need_root(&root, id))?;
    with_store(root, async |store| {
        for id in args.ids {
            match store.delete(&id).await {
                Ok(()) => removed.push(id),
                // The others are removed all the same.
                Err(error) => {
                    say(format!("fiefdom: {error}"));
                    code = if code == DONE { code_of(&error) } else { code };
                }
            }
        }
        Ok(())
    })
    .await?;
    for id in &removed {
        out.line(format!("removed {id}"))?;
    }
    out.document(&json!({ "removed": removed }))?;
    Ok(code)
}

/// RFC 7386: objects are merged, null removes, everything else replaces.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge_patch(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn a_merge_is_that_of_the_rfc() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut target, patch, result) in cases {
            merge_patch(&mut target, patch);
            assert_eq!(target, result);
        }
    }
}

//! Commands that change one instance: `create`, `update`, `append`, `rm`.

use fiefdom::control::{Change, Operation};
use fiefdom::jobs::CommandJob;
use fiefdom::{DataRoot, Error, InstanceId, NewInstance, Store, Untyped, View};
use serde_json::json;

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
    let mut change = Change::new();
    (change.merge, change.status, change.reason) = (merge, status, reason);
    let operation = Operation::Update(change);
    let record = with_store(root, async |store| {
        // A job takes only what its type has, also at rest: else its next attempt would drop it, or fail.
        let done = match store.of_kind(CommandJob).await?.control(&id, operation.clone()).await {
            Err(Error::KindMismatch { .. } | Error::Schema { .. }) => store.control(&id, operation).await,
            done => done,
        };
        Ok(done?.record)
    })
    .await?;
    out.line(format!("{} revision {} {}", record.id, record.revision, record.status))?;
    out.document(&record)?;
    Ok(DONE)
}

pub(crate) async fn append(root: DataRoot, out: Output, args: Append) -> Result<u8, Failure> {
    need_root(&root, &args.id)?;
    let operation = Operation::Append { kind: args.kind, data: args.data };
    let done = with_store(root, async |store| Ok(store.control(&args.id, operation).await?)).await?;
    let seq = done.event_seq.unwrap_or_default();
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

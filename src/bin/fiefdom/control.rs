//! Commands that reach into the process that runs an instance: `cancel`, `pause`, `unpause`.

use std::time::Duration;

use fiefdom::control::{Done, Operation};
use fiefdom::{DataRoot, InstanceId, Status, Store, Untyped, View};
use serde_json::json;

use crate::args::Cancel;
use crate::edit::{need_root, with_store};
use crate::failure::{DONE, Failure, code_of};
use crate::output::{Output, say};

/// How often it is looked whether a job has stopped.
const LOOK: Duration = Duration::from_millis(50);

/// How many looks may find no record of an instance that its owner knows.
const MISSING: u32 = 100;

pub(crate) async fn cancel(root: DataRoot, out: Output, args: Cancel) -> Result<u8, Failure> {
    args.ids.iter().try_for_each(|id| need_root(&root, id))?;
    with_store(root, async |store| {
        let mut code = DONE;
        // All are asked before one is waited for.
        let mut asked = Vec::new();
        for id in args.ids {
            match store.control(&id, Operation::Cancel).await {
                Ok(done) if done.asked && args.wait => asked.push((id, done)),
                Ok(done) => tell(out, &id, &done, done.record.status)?,
                Err(error) => fail(&mut code, &error),
            }
        }
        for (id, mut done) in asked {
            match ended(&store.view(), &id, done.record.revision).await {
                Ok(status) => {
                    done.asked = false;
                    tell(out, &id, &done, status)?;
                }
                Err(error) => fail(&mut code, &error),
            }
        }
        Ok(code)
    })
    .await
}

/// Does one operation to each; that one cannot be done keeps none of the others from it.
pub(crate) async fn each(
    root: DataRoot,
    out: Output,
    ids: Vec<InstanceId>,
    operation: &Operation,
) -> Result<u8, Failure> {
    ids.iter().try_for_each(|id| need_root(&root, id))?;
    with_store(root, async |store: &Store<Untyped>| {
        let mut code = DONE;
        for id in ids {
            match store.control(&id, operation.clone()).await {
                Ok(done) => tell(out, &id, &done, done.record.status)?,
                Err(error) => fail(&mut code, &error),
            }
        }
        Ok(code)
    })
    .await
}

/// The code is that of the first error.
fn fail(code: &mut u8, error: &fiefdom::Error) {
    say(format!("fiefdom: {error}"));
    if *code == DONE {
        *code = code_of(error);
    }
}

/// Waits until nobody is at work on the instance. Its files may lag behind what the owner answered,
/// also those of an instance that is new.
async fn ended(view: &View, id: &InstanceId, revision: u64) -> fiefdom::Result<Status> {
    let mut missing = 0;
    loop {
        match view.record(id) {
            Ok(record) if record.revision >= revision => {
                let status = record.status;
                if status.is_final() || matches!(status, Status::Interrupted | Status::Pending) {
                    return Ok(status);
                }
            }
            Err(fiefdom::Error::NotFound { .. }) if missing < MISSING => missing += 1,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(out: Output, id: &InstanceId, done: &Done, status: Status) -> Result<(), Failure> {
    let owner = done.owner.as_ref().map(|owner| owner.pid);
    let by = owner.map_or_else(String::new, |pid| format!(" (by process {pid})"));
    let what = if done.asked { "asked to stop".to_owned() } else { status.to_string() };
    out.line(format!("{id} {what}{by}"))?;
    out.document(&json!({ "instance_id": id, "status": status, "asked": done.asked, "pid": owner }))
}

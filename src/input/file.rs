//! The file of an input request, which follows its events, and is never the only place of anything.

use crate::actors::instance::Core;
use crate::disk::fs::Dir;
use crate::disk::layout;
use crate::error::Result;
use crate::following::{event, read_json, write};
use crate::record::InputRequest;
use crate::record::work::{AnsweredEvent, AskedEvent, Request};

/// Largest file that is read, in bytes: more than the largest is with its indentation.
const FILE_BYTES: u64 = 4 << 20;

/// Where the files are.
const FILES: [&str; 2] = [layout::EVENTS, layout::INPUT_REQUESTS];

/// A request as a document: from its file when that is not behind, else from the events.
pub(super) fn load(instance: &Dir, key: &str, request: &Request) -> Result<InputRequest> {
    if let Some(found) = in_file(instance, key).filter(|found| found.is(request)) {
        return Ok(found);
    }
    let asking = event(instance, request.asked)?;
    let AskedEvent { key, prompt, schema } = asking.data_as()?;
    let (asked_seq, asked_at) = (request.asked, asking.at);
    let mut found =
        InputRequest { key, prompt, schema, asked_seq, asked_at, answer: None, answer_seq: None, answered_at: None };
    if let Some(seq) = request.answered {
        let answering = event(instance, seq)?;
        found.answer = Some(answering.data_as::<AnsweredEvent>()?.answer);
        (found.answer_seq, found.answered_at) = (Some(seq), Some(answering.at));
    }
    Ok(found)
}

fn in_file(instance: &Dir, key: &str) -> Option<InputRequest> {
    read_json(instance, &FILES, &layout::input_request(key), FILE_BYTES)
}

/// Brings the file of a request up to the record.
pub(super) fn follow<S>(core: &Core<S>, key: &str, known: Option<InputRequest>) -> Result<()> {
    let (dir, record): (&Dir, _) = (&core.lane.dir, core.published());
    let name = layout::input_request(key);
    let Some(request) = record.work.requests.get(key) else {
        if let Some(files) = dir.open_dir(FILES[0])?.map(|events| events.open_dir(FILES[1])).transpose()?.flatten()
            && files.remove_file(&name)?
        {
            files.sync()?;
        }
        return Ok(());
    };
    if in_file(dir, key).is_some_and(|found| found.is(request)) {
        return Ok(());
    }
    let known = known.or_else(|| record.input_requests().into_iter().find(|open| open.key == key));
    let whole = if let Some(known) = known.filter(|known| known.is(request)) {
        known
    } else {
        // The events may be in the log alone.
        core.lane.materialise()?;
        load(dir, key, request)?
    };
    write(dir, &FILES, &name, &whole)
}

//! Following the events of an instance: history, then live. It takes no lock, wakes no instance,
//! and keeps no queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, StreamExt as _};

use crate::blocking;
use crate::disk::root::Root;
use crate::error::{Error, Result};
use crate::log::events::EventReader;
use crate::log::feed::Follower;
use crate::record::{Event, InstanceId};

/// How often the files are looked at while nobody in this process owns the instance.
const POLL: Duration = Duration::from_millis(100);

/// Most events that are taken from memory at a time.
const CHUNK_EVENTS: usize = 256;

struct Follow {
    root: Arc<Root>,
    id: InstanceId,
    follower: Follower,
    reader: EventReader,
    ready: VecDeque<Event>,
    failed: bool,
}

/// The events from `from_seq` on, and every new one.
pub(crate) fn stream(
    root: Arc<Root>,
    id: InstanceId,
    from_seq: u64,
    follower: Follower,
) -> impl Stream<Item = Result<Event>> + Send + Unpin {
    let follow =
        Follow { root, id, follower, reader: EventReader::new(from_seq), ready: VecDeque::new(), failed: false };
    stream::unfold(follow, |mut follow| async move {
        if follow.failed {
            return None;
        }
        let item = follow.next().await;
        follow.failed = item.is_err();
        Some((item, follow))
    })
    .boxed()
}

impl Follow {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.fetch().await?;
        }
    }

    /// Waits until there is something to give, and takes it. It may come back with nothing.
    async fn fetch(&mut self) -> Result<()> {
        let next_seq = self.reader.next_seq();
        let lane = self.follower.feed().lane().filter(|lane| !lane.is_released());
        let durable_seq = self.follower.durable_seq();
        let live = lane.is_some();
        if live && next_seq > durable_seq {
            self.wait(live).await;
            return Ok(());
        }
        let recent = self.follower.recent(next_seq, CHUNK_EVENTS);
        if let Some(last) = recent.last() {
            self.reader.skip_to(last.seq + 1);
            for line in recent {
                let damaged =
                    |e: serde_json::Error| Error::Unserializable { field: "event".into(), reason: e.to_string() };
                self.ready.push_back(serde_json::from_str(&line.text).map_err(damaged)?);
            }
            return Ok(());
        }
        let mut reader = std::mem::replace(&mut self.reader, EventReader::new(next_seq));
        let (root, id) = (Arc::clone(&self.root), self.id.clone());
        let (reader, events) = blocking::run(move || {
            // What is durable and not in memory any more is in the files, or on its way there.
            if let Some(lane) = lane {
                lane.materialise()?;
            }
            let events = match root.instances.open_dir(id.as_str())? {
                Some(dir) => reader.read(&dir)?,
                None => Vec::new(),
            };
            Ok((reader, events))
        })
        .await?;
        self.reader = reader;
        if events.is_empty() {
            self.wait(false).await;
        }
        self.ready.extend(events);
        Ok(())
    }

    /// Waits for news: from the log when the instance is live here, else also for a while.
    async fn wait(&mut self, live: bool) {
        if live {
            self.follower.changed().await;
        } else {
            // Running out of time is the other way to go on.
            let _ = tokio::time::timeout(POLL, self.follower.changed()).await;
        }
    }
}

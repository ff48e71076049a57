//! What the load consists of: instances with a small state, callers that change it, and how long
//! each change took.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fiefdom::{BoxError, Durability, Instance, InstanceId, InstanceRef, NewInstance, Options, Store};
use futures::{StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Creations under way at once.
const CREATIONS: usize = 64;

/// Bytes of a line of the commit log beside the record: its checksum, what identifies the commit,
/// and its place in the mark of the batch.
const LINE: usize = 220;

/// What is asked for, the same for every shape.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) run_for: Duration,
    pub(super) callers: usize,
    pub(super) instances: usize,
    pub(super) record_bytes: usize,
    pub(super) durability: Durability,
    /// Comes true at Ctrl-C. Every shape ends soon after that, in good order.
    pub(super) stop: CancellationToken,
}

impl Setting {
    pub(super) fn options(&self) -> Options {
        let mut options = Options::default();
        options.durability = self.durability;
        options
    }

    pub(super) async fn open(&self, root: &Path, options: Options) -> Result<Store<Load>, Failure> {
        Ok(Store::open_with(root, Load, options).await?)
    }

    /// Makes so many instances, and says how large a line of the log is for one of them.
    pub(super) async fn populate(&self, store: &Store<Load>, count: usize) -> Result<Population, Failure> {
        let note = "x".repeat(self.record_bytes.saturating_sub(EMPTY));
        let ids: Vec<InstanceId> = (0..count).map(id).collect::<Result<_, _>>()?;
        let made = futures::stream::iter(ids.iter().cloned().map(|id| {
            let new = NewInstance::with_id(id).input(note.clone().into());
            async { store.create(new).await.map(drop) }
        }));
        let made = made.take_until(self.stop.cancelled()).buffer_unordered(CREATIONS).try_collect::<()>();
        made.await?;
        if self.stop.is_cancelled() {
            return Ok(Population { ids: Vec::new(), commit_bytes: LINE });
        }
        let record = store.get(&ids[0]).await?.record().await?;
        Ok(Population { ids, commit_bytes: commit_bytes(&*record)? })
    }
}

/// About how long the line of a commit with this record is, in bytes.
pub(super) fn commit_bytes(record: &impl Serialize) -> Result<usize, Failure> {
    Ok(serde_json::to_vec(record).map_err(std::io::Error::from)?.len() + LINE)
}

/// Instances that were made.
pub(super) struct Population {
    pub(super) ids: Vec<InstanceId>,
    /// About how long a line of the commit log is, in bytes.
    pub(super) commit_bytes: usize,
}

pub(super) fn id(number: usize) -> Result<InstanceId, Failure> {
    Ok(InstanceId::new(&format!("load-{number}"))?)
}

/// The kind of the instances.
pub(super) struct Load;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) count: u64,
    note: String,
}

/// Bytes of a state whose note is empty, and whose count has six digits.
const EMPTY: usize = 27;

impl Instance for Load {
    const KIND: &'static str = "load";
    type State = State;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<State, BoxError> {
        Ok(State { count: 0, note: new.input_as()? })
    }
}

/// The operation that is measured: a change of one instance.
pub(super) async fn update(instance: &InstanceRef<Load>) -> fiefdom::Result<u64> {
    let change = |state: &mut State| {
        state.count += 1;
        state.count
    };
    instance.update(change).await
}

/// Where the changes go.
pub(super) enum Targets {
    /// Handles on instances that stay live.
    Live(Vec<InstanceRef<Load>>),
    /// Instances that have to be brought to life, as a program does that is asked for an id.
    Dormant(Store<Load>, Vec<InstanceId>),
}

impl Targets {
    pub(super) async fn live(store: &Store<Load>, ids: &[InstanceId]) -> Result<Arc<Self>, Failure> {
        let mut handles = Vec::new();
        for id in ids {
            handles.push(store.get(id).await?);
        }
        Ok(Arc::new(Self::Live(handles)))
    }

    pub(super) async fn update(&self, number: usize) -> fiefdom::Result<u64> {
        match self {
            Self::Live(handles) => update(&handles[number]).await,
            Self::Dormant(store, ids) => update(&store.get(&ids[number]).await?).await,
        }
    }
}

/// How long each of many operations took.
#[derive(Clone)]
pub(super) struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Latencies {
    pub(super) fn new() -> Self {
        // Nanoseconds up to an hour, three digits: the bounds are sound, and so nothing is thrown.
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3);
        Self(Arc::new(Mutex::new(histogram.unwrap_or_else(|_| unreachable!("sound bounds")))))
    }

    pub(super) fn note(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanoseconds);
    }

    pub(super) fn add(&self, others: &Self) {
        let others = others.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Both have the same bounds.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).add(&*others);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: us(histogram.max()) }
    }
}

/// In microseconds; all zero when there was no operation.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// What came of a load.
pub(super) struct Loaded {
    pub(super) latencies: Latencies,
    pub(super) elapsed: Duration,
}

impl Loaded {
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Every caller makes one change after the other, until `run_for` is over or there is no `next`
/// target: `next` gives each caller its own sequence.
pub(super) async fn callers<N>(
    setting: &Setting,
    run_for: Duration,
    targets: &Arc<Targets>,
    next: impl Fn(usize) -> N,
) -> Result<Loaded, Failure>
where
    N: FnMut() -> Option<usize> + Send + 'static,
{
    let latencies = Latencies::new();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..setting.callers)
        .map(|caller| {
            let (mut next, targets) = (next(caller), Arc::clone(targets));
            let (latencies, stop) = (latencies.clone(), setting.stop.clone());
            tokio::spawn(async move {
                while begun.elapsed() < run_for
                    && !stop.is_cancelled()
                    && let Some(number) = next()
                {
                    let asked = Instant::now();
                    targets.update(number).await?;
                    latencies.note(asked.elapsed());
                }
                Ok(())
            })
        })
        .collect();
    finish(tasks).await?;
    Ok(Loaded { latencies, elapsed: begun.elapsed() })
}

/// Waits for all of them, and gives the first failure.
pub(super) async fn finish(tasks: Vec<tokio::task::JoinHandle<fiefdom::Result<()>>>) -> Result<(), Failure> {
    let mut first = Ok(());
    for task in tasks {
        let ended = task.await.map_err(|e| Failure::Output(std::io::Error::other(e)))?;
        first = first.and(ended.map_err(Failure::from));
    }
    first
}

/// A sequence that looks random (xorshift64*, Vigna 2016), the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap_or_default() % limit
    }
}

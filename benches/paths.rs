//! The hot paths, each at a stated durability, beside what people write by hand.
//!
//! `cargo bench` runs everything; `cargo bench -- update` one group. `docs/performance.md` says how
//! to read it. The seed of nothing matters here: every input is fixed.
#![allow(missing_docs, clippy::cast_precision_loss)]

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use fiefdom::jobs::{Batch, BatchItem, CommandInput, CommandJob, Runner};
use fiefdom::{Durability, InstanceId, InstanceRef, NewInstance, Options, Store, Untyped};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Who writes at once; each has an instance of its own.
const CALLERS: [usize; 3] = [1, 64, 512];

/// Jobs of the run benchmark.
const JOBS: usize = 2000;

/// A document of about 200 bytes of JSON.
fn document() -> Value {
    json!({ "count": 0, "step": "compile", "branch": "main", "note": "x".repeat(140) })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn settings(durability: Durability) -> Options {
    let mut options = Options::default();
    options.durability = durability;
    // 512 callers on one instance are one of the loads.
    options.queued_per_instance = 1024;
    options
}

/// `total` operations, shared out to `callers` tasks that each make one after the other.
async fn shared_out<F, Fut>(callers: usize, total: u64, operation: F) -> Duration
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let each = total.div_ceil(callers as u64);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let operation = operation.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    operation(caller).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Criterion divides by what it asked for.
    begun.elapsed().mul_f64(total as f64 / (each * callers as u64) as f64)
}

async fn instances(store: &Store<Untyped>, count: usize) -> Arc<Vec<InstanceRef<Untyped>>> {
    let mut made = Vec::new();
    for _ in 0..count {
        made.push(store.create(NewInstance::new().input(document())).await.unwrap().instance().clone());
    }
    Arc::new(made)
}

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, criterion::measurement::WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group
}

/// `update` of a 200-byte document: durable, at `Os`, and by a lock map that replaces files.
fn updates(c: &mut Criterion) {
    let rt = runtime();
    let mut group = group(c, "update");
    for (name, durability) in [("disk", Durability::Disk), ("os", Durability::Os)] {
        for callers in CALLERS {
            let dir = tempfile::tempdir().unwrap();
            let store = rt.block_on(Store::open_with(dir.path(), Untyped, settings(durability))).unwrap();
            let all = rt.block_on(instances(&store, callers));
            group.bench_function(BenchmarkId::new(name, callers), |b| {
                b.iter_custom(|total| rt.block_on(shared_out(callers, total, update(&all))));
            });
            rt.block_on(store.shutdown()).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = rt.block_on(Store::open_with(dir.path(), Untyped, settings(Durability::Disk))).unwrap();
    let one = rt.block_on(instances(&store, 1));
    group.bench_function(BenchmarkId::new("disk, one hot instance", 64), |b| {
        let operation = update(&one);
        b.iter_custom(|total| {
            rt.block_on(shared_out(64, total, {
                let operation = operation.clone();
                move |_| operation(0)
            }))
        });
    });
    rt.block_on(store.shutdown()).unwrap();
    for sync in [false, true] {
        let name = if sync { "lock map, file and directory fsync" } else { "lock map, no fsync" };
        for callers in CALLERS {
            let dir = tempfile::tempdir().unwrap();
            let map = Arc::new(LockMap::new(dir.path(), callers, sync));
            group.bench_function(BenchmarkId::new(name, callers), |b| {
                b.iter_custom(|total| {
                    let map = Arc::clone(&map);
                    rt.block_on(shared_out(callers, total, move |caller| {
                        let map = Arc::clone(&map);
                        async move { tokio::task::spawn_blocking(move || map.update(caller)).await.unwrap() }
                    }))
                });
            });
        }
    }
    // The physical limit of one caller: the bytes of one commit, appended and flushed.
    let dir = tempfile::tempdir().unwrap();
    let mut file = File::create(dir.path().join("log")).unwrap();
    let line = vec![b'x'; 900];
    group.bench_function("raw append and fdatasync/1", |b| {
        b.iter(|| {
            file.write_all(&line).unwrap();
            file.sync_data().unwrap();
        });
    });
    group.finish();
}

fn update(
    all: &Arc<Vec<InstanceRef<Untyped>>>,
) -> impl Fn(usize) -> futures::future::BoxFuture<'static, ()> + Clone + Send + 'static {
    let all = Arc::clone(all);
    move |caller| {
        let instance = all[caller].clone();
        Box::pin(async move {
            instance.update(|state| state["count"] = (state["count"].as_u64().unwrap() + 1).into()).await.unwrap();
        })
    }
}

/// What is written by hand again and again: a lock per id, JSON to a temporary file, rename.
struct LockMap {
    locks: HashMap<usize, std::sync::Mutex<Value>>,
    dir: std::path::PathBuf,
    sync: bool,
}

impl LockMap {
    fn new(dir: &Path, count: usize, sync: bool) -> Self {
        for n in 0..count {
            std::fs::create_dir(dir.join(n.to_string())).unwrap();
        }
        Self { locks: (0..count).map(|n| (n, std::sync::Mutex::new(document()))).collect(), dir: dir.to_owned(), sync }
    }

    fn update(&self, id: usize) {
        let mut state = self.locks[&id].lock().unwrap();
        state["count"] = (state["count"].as_u64().unwrap() + 1).into();
        let dir = self.dir.join(id.to_string());
        let mut file = tempfile::NamedTempFile::new_in(&dir).unwrap();
        file.write_all(&serde_json::to_vec(&*state).unwrap()).unwrap();
        if self.sync {
            file.as_file().sync_all().unwrap();
        }
        file.persist(dir.join("state.json")).unwrap();
        if self.sync {
            File::open(&dir).unwrap().sync_all().unwrap();
        }
    }
}

fn reads(c: &mut Criterion) {
    let rt = runtime();
    let dir = tempfile::tempdir().unwrap();
    let store = rt.block_on(Store::open(dir.path(), Untyped)).unwrap();
    let all = rt.block_on(instances(&store, 1));
    let mut group = group(c, "read");
    group.bench_function("a field of a live instance", |b| {
        b.to_async(&rt).iter(|| async { all[0].read(|state| state["count"].as_u64()).await.unwrap() });
    });
    group.bench_function("a copy of the state", |b| {
        b.to_async(&rt).iter(|| async { all[0].state().await.unwrap() });
    });
    group.finish();
    rt.block_on(store.shutdown()).unwrap();
}

fn creations(c: &mut Criterion) {
    let rt = runtime();
    let mut group = group(c, "create");
    for callers in [1, 64] {
        let dir = tempfile::tempdir().unwrap();
        let store = rt.block_on(Store::open(dir.path(), Untyped)).unwrap();
        group.bench_function(BenchmarkId::new("disk", callers), |b| {
            b.iter_custom(|total| {
                let store = store.clone();
                rt.block_on(shared_out(callers, total, move |_| {
                    let store = store.clone();
                    async move { drop(store.create(NewInstance::new().input(document())).await.unwrap()) }
                }))
            });
        });
        rt.block_on(store.shutdown()).unwrap();
    }
    group.finish();
}

/// First use of a dormant instance, with the files in the page cache.
fn activations(c: &mut Criterion) {
    const DORMANT: usize = 2000;
    let rt = runtime();
    let mut group = group(c, "activate");
    for callers in [1, 64] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = settings(Durability::Disk);
        // Going round, every instance has been let go long before its turn comes again.
        options.live_instances = DORMANT / 2;
        let store = rt.block_on(Store::open_with(dir.path(), Untyped, options)).unwrap();
        let all = rt.block_on(instances(&store, DORMANT));
        let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        group.bench_function(BenchmarkId::new("dormant", callers), |b| {
            b.iter_custom(|total| {
                let (all, next) = (Arc::clone(&all), Arc::clone(&next));
                rt.block_on(shared_out(callers, total, move |_| {
                    let instance = all[next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % DORMANT].clone();
                    async move { drop(instance.record().await.unwrap()) }
                }))
            });
        });
        rt.block_on(store.shutdown()).unwrap();
    }
    group.finish();
}

fn appends(c: &mut Criterion) {
    let rt = runtime();
    let mut group = group(c, "append");
    for callers in [1, 64] {
        let dir = tempfile::tempdir().unwrap();
        let store = rt.block_on(Store::open(dir.path(), Untyped)).unwrap();
        let all = rt.block_on(instances(&store, callers));
        group.bench_function(BenchmarkId::new("disk, 200 bytes", callers), |b| {
            b.iter_custom(|total| {
                let all = Arc::clone(&all);
                rt.block_on(shared_out(callers, total, move |caller| {
                    let instance = all[caller].clone();
                    async move {
                        instance.append("line", document()).await.unwrap();
                    }
                }))
            });
        });
        rt.block_on(store.shutdown()).unwrap();
    }
    group.finish();
}

/// A batch of 2 000 times `true`, two at once.
fn runs(c: &mut Criterion) {
    let rt = runtime();
    let mut group = group(c, "run");
    group.throughput(Throughput::Elements(JOBS as u64)).measurement_time(Duration::from_secs(20));
    // Removed at the end: ext4 without a journal takes its time to make files where others were
    // deleted a moment ago.
    let mut roots = Vec::new();
    group.bench_function("2000 times true, 2 at once", |b| {
        b.iter_custom(|total| {
            let run = async {
                let mut took = Duration::ZERO;
                for _ in 0..total {
                    let dir = tempfile::tempdir().unwrap();
                    let begun = Instant::now();
                    let store = Store::open(dir.path(), CommandJob).await.unwrap();
                    let input = json!(CommandInput::new("true"));
                    let item = |n| BatchItem::new(InstanceId::new(&format!("job-{n}")).unwrap(), input.clone());
                    let batch = Batch::create(&store, (0..JOBS).map(item).collect::<Vec<_>>()).await.unwrap();
                    let summary = Runner::new(store.clone()).concurrency(2).run(&batch, |_| {}).await.unwrap();
                    assert!(summary.all_succeeded());
                    store.shutdown().await.unwrap();
                    took += begun.elapsed();
                    roots.push(dir);
                }
                took
            };
            rt.block_on(run)
        });
    });
    group.finish();
}

criterion_group!(paths, updates, reads, creations, activations, appends, runs);
criterion_main!(paths);

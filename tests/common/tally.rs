//! A recorder that adds up, for tests of the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Everything that was recorded. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    series: Arc<Mutex<BTreeMap<String, Arc<Series>>>>,
    described: Arc<Mutex<BTreeMap<String, Option<Unit>>>>,
}

/// A sum, and of how many.
#[derive(Default)]
struct Series(Mutex<(f64, u64)>);

impl Series {
    fn add(&self, value: f64) {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *series = (series.0 + value, series.1 + 1);
    }
}

impl Tally {
    fn series(&self, key: &Key) -> Arc<Series> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name =
            if labels.is_empty() { key.name().to_owned() } else { format!("{} {}", key.name(), labels.join(" ")) };
        Arc::clone(self.series.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default())
    }

    /// The sum of a series (`name`, or `name label=value`), and how often something was added.
    pub(crate) fn of(&self, series: &str) -> (f64, u64) {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(series).map_or((0.0, 0), |series| *series.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The names without labels of everything that was recorded.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().filter_map(|name| name.split(' ').next()).map(str::to_owned).collect()
    }

    pub(crate) fn unit(&self, name: &str) -> Option<Unit> {
        *self.described.lock().unwrap_or_else(PoisonError::into_inner).get(name)?
    }

    fn describe(&self, key: &KeyName, unit: Option<Unit>) {
        self.described.lock().unwrap_or_else(PoisonError::into_inner).insert(key.as_str().to_owned(), unit);
    }
}

impl Recorder for Tally {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, _: SharedString) {
        self.describe(&key, unit);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}

#[allow(clippy::cast_precision_loss, reason = "tests count to a hundred")]
impl CounterFn for Series {
    fn increment(&self, by: u64) {
        self.add(by as f64);
    }

    fn absolute(&self, value: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (value as f64, 1);
    }
}

impl GaugeFn for Series {
    fn increment(&self, by: f64) {
        self.add(by);
    }

    fn decrement(&self, by: f64) {
        self.add(-by);
    }

    fn set(&self, value: f64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (value, 1);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

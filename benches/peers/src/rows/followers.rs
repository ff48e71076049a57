//! How long a follower waits for what others already know to be there.

use std::time::{Duration, Instant};

use fiefdom::{Durability, InstanceRef};
use futures::StreamExt as _;

use super::{Bound, Goal};
use crate::harness::{Figure, Outcome, Row, Setting};
use crate::peers::document::{Document, Work};
use crate::peers::driver::runtime;
use crate::peers::ours;

const INSTANCES: usize = 64;

/// Appends per second, over all instances.
const PACE: f64 = 10_000.0;

const MEDIAN: &str = "fiefdom, median";
const P99: &str = "fiefdom, 99 of 100 within";

pub fn rows() -> Vec<Row> {
    vec![Row {
        name: "followers",
        title: "From the acknowledgement of an append until a follower has it, at 10 000 appends/s over 64 instances",
        unit: "us",
        axis: None,
        at_most: usize::MAX,
        contenders: vec![Box::new(measure)],
    }]
}

pub fn goals() -> Vec<Goal> {
    vec![Goal {
        row: "followers",
        ours: P99,
        theirs: None,
        bound: Bound::AtMost(5_000.0),
        if_missed: "Its cause has not been looked for.",
    }]
}

fn measure(setting: &Setting) -> Outcome<Vec<Figure>> {
    let mut waits = runtime()?.block_on(async {
        let store = ours::open(setting, Durability::Disk).await?;
        let all = ours::instances(&store, INSTANCES).await?;
        let (between, count) = (
            Duration::from_secs_f64(INSTANCES as f64 / PACE),
            (PACE * setting.run_for.as_secs_f64()) as usize / INSTANCES,
        );
        let begin = Instant::now() + Duration::from_millis(50);
        let pairs: Vec<_> = (0..INSTANCES)
            .map(|n| {
                // Not all at the same moment.
                let first = begin + between.mul_f64(n as f64 / INSTANCES as f64);
                (
                    tokio::spawn(follow(all[n].clone(), count)),
                    tokio::spawn(append(all[n].clone(), first, between, count)),
                )
            })
            .collect();
        let mut waits = Vec::new();
        for (seen, acknowledged) in pairs {
            let (seen, acknowledged) = (seen.await?, acknowledged.await?);
            // A follower that is told before the caller waits not at all.
            let wait = |(seen, at): (Instant, Instant)| seen.saturating_duration_since(at).as_secs_f64() * 1e6;
            waits.extend(seen.into_iter().zip(acknowledged).map(wait));
        }
        let reached = (count * INSTANCES) as f64 / begin.elapsed().as_secs_f64();
        store.shutdown().await?;
        if reached < 0.9 * PACE {
            return Err(format!("only {reached:.0} appends/s were reached").into());
        }
        Outcome::Ok(waits)
    })?;
    waits.sort_by(f64::total_cmp);
    Ok(vec![Figure::new(MEDIAN, waits[waits.len() / 2]), Figure::new(P99, waits[waits.len() * 99 / 100])])
}

/// When each event was seen.
async fn follow(instance: InstanceRef<Work>, count: usize) -> Vec<Instant> {
    let mut events = instance.events(1).take(count);
    let mut seen = Vec::with_capacity(count);
    while let Some(event) = events.next().await {
        let event = event.expect("an event");
        seen.push(Instant::now());
        assert_eq!(event.seq, seen.len() as u64);
    }
    seen
}

/// When each event was acknowledged.
async fn append(instance: InstanceRef<Work>, first: Instant, between: Duration, count: usize) -> Vec<Instant> {
    let mut acknowledged = Vec::with_capacity(count);
    let mut next = first;
    for _ in 0..count {
        tokio::time::sleep_until(next.into()).await;
        instance.append("line", Document::new()).await.expect("an append");
        acknowledged.push(Instant::now());
        next += between;
    }
    acknowledged
}

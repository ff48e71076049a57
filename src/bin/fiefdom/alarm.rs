//! `alarm` sets the alarm of an instance or takes it back; `alarms` lists those that wait, or takes
//! them as they come due.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args as ClapArgs;
use fiefdom::{Alarm as Set, DataRoot, InstanceId, Store, Transaction, Untyped};
use serde_json::{Value, json};

use crate::args::{duration, json};
use crate::edit::{need_root, with_store};
use crate::failure::{DONE, Failure, INTERRUPTED};
use crate::inspect;
use crate::output::{Output, plain, say};

#[derive(ClapArgs)]
#[command(group(clap::ArgGroup::new("when").required(true).args(["at", "after", "clear"])))]
pub(crate) struct Alarm {
    /// The instance
    id: InstanceId,
    /// When, such as 2027-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// In how long, such as 90s, 5m, 1h30m
    #[arg(long = "in", value_name = "DUR", value_parser = duration)]
    after: Option<Duration>,
    /// Take the alarm back
    #[arg(long, conflicts_with = "payload")]
    clear: bool,
    /// What to say when it is due
    #[arg(value_name = "JSON", default_value = "null", value_parser = json)]
    payload: Value,
}

#[derive(ClapArgs)]
pub(crate) struct Alarms {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "take")]
    limit: usize,
    /// Print each alarm when it is due, and clear it then, until interrupted
    #[arg(long)]
    take: bool,
}

pub(crate) async fn alarm(root: DataRoot, out: Output, args: Alarm) -> Result<u8, Failure> {
    let Alarm { id, at, after, clear, payload } = args;
    need_root(&root, &id)?;
    if let Some(at) = at.filter(|at| *at <= Utc::now()) {
        return Err(Failure::Usage(format!("{at} has passed; set a later time")));
    }
    let too_long = || Failure::Usage("--in is too long; give a shorter time".into());
    let after = after.map(|after| TimeDelta::from_std(after).map_err(|_| too_long())).transpose()?;
    if after.is_some_and(|after| Utc::now().checked_add_signed(after).is_none()) {
        return Err(too_long());
    }
    let (had, alarm) = with_store(root, async |store| {
        let instance = store.get(&id).await?;
        let had = instance.record().await?.alarm.is_some();
        if clear {
            instance.clear_alarm().await?;
        } else {
            // From the moment of the commit: to get there may have taken longer than that.
            let set = move |tx: &mut Transaction<Value>| {
                let at = at.or_else(|| Utc::now().checked_add_signed(after?)).unwrap_or_default();
                tx.set_alarm(at, &payload)
            };
            instance.commit(set).await?;
        }
        Ok((had, instance.record().await?.alarm.clone()))
    })
    .await?;
    match &alarm {
        Some(alarm) => out.line(format!("{id} has an alarm at {}", time(alarm)))?,
        None if had => out.line(format!("{id} has no alarm any more"))?,
        None => out.line(format!("{id} had no alarm"))?,
    }
    out.document(&json!({ "instance_id": id, "alarm": alarm }))?;
    Ok(DONE)
}

pub(crate) async fn alarms(root: DataRoot, out: Output, args: Alarms) -> Result<u8, Failure> {
    if args.take {
        return take(root, out).await;
    }
    let view = inspect::open(root)?;
    let found = view.alarms(args.limit)?;
    let rows: Vec<Vec<String>> =
        found.iter().map(|(id, alarm)| vec![id.to_string(), time(alarm), plain(alarm.payload.get())]).collect();
    if !rows.is_empty() {
        out.table(&["ID", "DUE", "PAYLOAD"], &rows)?;
    }
    let all: Vec<_> = found.iter().map(|(id, alarm)| json!({ "instance_id": id, "alarm": alarm })).collect();
    out.document(&json!({ "alarms": all }))?;
    Ok(DONE)
}

async fn take(root: DataRoot, out: Output) -> Result<u8, Failure> {
    with_store(root, async |store| {
        tokio::select! {
            ended = print_due(store, out) => ended.map(|()| DONE),
            _ = tokio::signal::ctrl_c() => Ok(INTERRUPTED),
        }
    })
    .await
}

/// Prints, then clears: whoever reads the line has it at least once.
async fn print_due(store: &Store<Untyped>, out: Output) -> Result<(), Failure> {
    let mut alarms = store.alarms();
    while let Some(due) = alarms.next().await {
        match due {
            Ok(due) => {
                out.line(format!("{} {} {}", due.id(), time(due.alarm()), plain(due.alarm().payload.get())))?;
                out.document(&json!({ "instance_id": due.id(), "alarm": due.alarm() }))?;
                due.done().await?;
            }
            Err(error) => say(format!("fiefdom: {error}")),
        }
    }
    Ok(())
}

fn time(alarm: &Set) -> String {
    alarm.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

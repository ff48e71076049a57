//! Roots of many dormant instances, written raw, in the shape in which a store leaves them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Puts instances of these numbers into the directory `<root>/instances`, `work-0000000` and on: each
/// was created a millisecond after the one before.
pub fn fill(root: &Path, numbers: std::ops::Range<usize>) -> io::Result<()> {
    let instances = root.join("instances");
    std::fs::create_dir_all(&instances)?;
    std::thread::scope(|scope| {
        let halves: Vec<_> = (0..2)
            .map(|half| {
                let (instances, numbers) = (&instances, numbers.clone());
                scope.spawn(move || numbers.skip(half).step_by(2).try_for_each(|nth| one(instances, nth)))
            })
            .collect();
        halves.into_iter().try_for_each(|half| half.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    })
}

pub fn name(nth: usize) -> String {
    format!("work-{nth:07}")
}

fn one(instances: &Path, nth: usize) -> io::Result<()> {
    let id = name(nth);
    let dir = instances.join(&id);
    DirBuilder::new().mode(0o700).create(&dir)?;
    let (minutes, seconds, millis) = (nth / 60_000, nth / 1000 % 60, nth % 1000);
    let at = format!("2026-01-05T{:02}:{:02}:{seconds:02}.{millis:03}Z", minutes / 60, minutes % 60);
    let record = format!(
        "{{\n  \"format\": 1,\n  \"instance_id\": \"{id}\",\n  \"uid\": \"3f0e1c9a-8d57-4c1e-9b7a-{nth:012x}\",\n  \
         \"kind\": \"work\",\n  \"name\": null,\n  \"status\": \"succeeded\",\n  \"status_reason\": null,\n  \
         \"created_at\": \"{at}\",\n  \"updated_at\": \"{at}\",\n  \"started_at\": \"{at}\",\n  \"ended_at\": \"{at}\",\n  \
         \"revision\": 2,\n  \"epoch\": 1,\n  \"writer\": \"7c2a4c1e-1f7b-4d7e-8a55-0123456789ab\",\n  \"attempt\": 1,\n  \
         \"tags\": {{\n    \"team\": \"build\"\n  }},\n  \"pinned\": false,\n  \"last_event_seq\": 0,\n  \
         \"schema_version\": 1,\n  \"state\": {{\n    \"note\": \"{:-<120}\",\n    \"nth\": {nth}\n  }}\n}}\n",
        "x"
    );
    let mut file = OpenOptions::new();
    file.write(true).create_new(true).mode(0o600);
    file.open(dir.join("instance.json"))?.write_all(record.as_bytes())
}

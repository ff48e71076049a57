//! Real block errors: ext4 on a disk that answers EIO to writes or to flushes. A commit whose flush
//! failed is `Unknown` and the store takes no more; what was acknowledged before is there afterwards.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use common::disks::{LoopDevice, Mount, missing, segments_left, skip, tool};
use common::{Counter, TestResult, another_process, id, options};
use fiefdom::{Error, NewInstance, Store, Untyped, View};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

const DISK_BYTES: usize = 64 << 20;
const DISK_INODE: u64 = 2;
const FOREVER: Duration = Duration::from_secs(3600);

/// What the disk refuses, and what it has refused.
#[derive(Default)]
struct Faults {
    writes: AtomicBool,
    flushes: AtomicBool,
    /// Only the next one is refused, and what is tried again goes through.
    once: AtomicBool,
    refused: AtomicU64,
}

impl Faults {
    fn refuse(&self, which: &AtomicBool) -> bool {
        let once = self.once.load(Ordering::SeqCst);
        let refuse = if once { which.swap(false, Ordering::SeqCst) } else { which.load(Ordering::SeqCst) };
        self.refused.fetch_add(u64::from(refuse), Ordering::SeqCst);
        refuse
    }

    fn lift(&self) {
        self.writes.store(false, Ordering::SeqCst);
        self.flushes.store(false, Ordering::SeqCst);
    }
}

/// A file system with one file in it, the disk, which is kept in memory.
struct OneFile {
    bytes: Mutex<Vec<u8>>,
    faults: Arc<Faults>,
}

fn attributes(inode: INodeNo) -> FileAttr {
    let disk = u64::from(inode) == DISK_INODE;
    FileAttr {
        ino: inode,
        size: if disk { DISK_BYTES as u64 } else { 0 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if disk { FileType::RegularFile } else { FileType::Directory },
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&FOREVER, &attributes(INodeNo(DISK_INODE)), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(inode));
    }

    /// Past the page cache: what the loop device writes comes here at once, and so do the errors back.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).map_or(DISK_BYTES, |offset| offset.min(DISK_BYTES));
        let end = (start + size as usize).min(DISK_BYTES);
        reply.data(&bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.faults.refuse(&self.faults.writes) {
            return reply.error(Errno::EIO);
        }
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(offset).ok().and_then(|start| bytes.get_mut(start..start + data.len()));
        let (Some(place), Ok(written)) = (place, u32::try_from(data.len())) else { return reply.error(Errno::EIO) };
        place.copy_from_slice(data);
        reply.written(written);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.faults.refuse(&self.faults.flushes) {
            return reply.error(Errno::EIO);
        }
        reply.ok();
    }
}

/// A disk with ext4 on it. Its server is a thread of the test: the process under test is another one,
/// so that neither waits for the other. The fields go in this order, the innermost first.
struct BadDisk {
    mount: Option<Mount>,
    device: LoopDevice,
    /// Keeps the name of the disk unmounted when the test panics.
    _outer: OuterGuard,
    _server: BackgroundSession,
    faults: Arc<Faults>,
    dir: tempfile::TempDir,
}

/// A busy FUSE file system cannot be unmounted, but it can be taken out of the tree.
struct OuterGuard(PathBuf);

impl Drop for OuterGuard {
    fn drop(&mut self) {
        let _ = tool("umount", &["--lazy", &self.0.to_string_lossy()]);
    }
}

impl BadDisk {
    fn make() -> TestResult<Self> {
        let dir = tempfile::tempdir()?;
        let (outer, at) = (dir.path().join("fuse"), dir.path().join("mnt"));
        std::fs::create_dir(&outer)?;
        std::fs::create_dir(&at)?;
        let faults = Arc::new(Faults::default());
        let one_file = OneFile { bytes: Mutex::new(vec![0; DISK_BYTES]), faults: Arc::clone(&faults) };
        let server = fuser::spawn_mount(one_file, &outer, &Config::default())?;
        let guard = OuterGuard(outer.clone());
        let device = LoopDevice::attach(&outer.join("disk"))?;
        tool("mkfs.ext4", &["-q", "-E", "nodiscard", &device.0])?;
        let mut disk = Self { mount: None, device, _outer: guard, _server: server, faults, dir };
        disk.plug_in()?;
        Ok(disk)
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn root(&self) -> PathBuf {
        self.at().join("root")
    }

    fn plug_in(&mut self) -> TestResult {
        self.mount = Some(Mount::new(&["-o", "errors=continue", &self.device.0], &self.at())?);
        Ok(())
    }

    /// Unmounts while the fault lasts, so that nothing reaches the disk late; then it is mended.
    fn mend(&mut self) -> TestResult {
        assert!(self.faults.refused.load(Ordering::SeqCst) > 0, "the fault never fired");
        if let Some(mount) = self.mount.take() {
            mount.unmount()?;
        }
        self.faults.lift();
        self.plug_in()
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        // The last flush of a file system that is unmounted must not wait for the fault.
        self.faults.lift();
    }
}

/// `None`, with the reason printed, where there can be no such disk.
fn bad_disk() -> TestResult<Option<BadDisk>> {
    let made = match missing(&["losetup", "mount", "umount", "mkfs.ext4"]) {
        None if !Path::new("/dev/fuse").exists() => Err("needs /dev/fuse".into()),
        None => BadDisk::make().map_err(|error| error.to_string()),
        Some(reason) => Err(reason),
    };
    match made {
        Ok(disk) => Ok(Some(disk)),
        Err(reason) => skip(&reason).map(|()| None),
    }
}

/// The process under test: does what it is told, a line each, and says what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test"]
async fn obey() -> TestResult {
    // The files follow late, so that there is something to flush when the log is closed.
    let options = options(|o| o.materialise_within = FOREVER);
    let store = Store::open_with(std::env::var("FIEFDOM_TEST_ROOT")?, Counter, options).await?;
    println!("\nready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let (what, name) = line.split_once(' ').unwrap_or((&line, "-"));
        let answer = match what {
            "create" => store.create(NewInstance::with_id(id(name))).await.map(|_| 0),
            "commit" => count(&store, name).await,
            "read" => match store.get(&id(name)).await {
                Ok(found) => found.read(|state| state.value).await,
                Err(error) => Err(error),
            },
            _ => store.shutdown().await.map(|()| 0),
        };
        match answer {
            Ok(value) => println!("ok {value}"),
            Err(Error::Unknown { .. }) => println!("unknown"),
            Err(Error::Poisoned { .. }) => println!("poisoned"),
            Err(Error::NotApplied { reason, .. }) if matches!(*reason, Error::Poisoned { .. }) => println!("poisoned"),
            Err(error) => println!("error {error:?}"),
        }
    }
    Ok(())
}

async fn count(store: &Store<Counter>, name: &str) -> fiefdom::Result<u64> {
    let instance = store.get(&id(name)).await?;
    let counted = instance.commit(|tx| {
        tx.state_mut().value += 1;
        let value = tx.state().value;
        tx.event("counted", &value)?;
        Ok(value)
    });
    Ok(counted.await?.value)
}

/// The process under test, seen from the test. It does not outlive this.
struct Subject {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Subject {
    fn start(root: &Path) -> TestResult<Self> {
        let mut process = another_process("obey")?
            .env("FIEFDOM_TEST_ROOT", root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        let mut subject = Self { process, orders, answers };
        while subject.answer()? != "ready" {}
        Ok(subject)
    }

    fn answer(&mut self) -> TestResult<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the process under test ended".into());
        }
        Ok(line.trim().to_owned())
    }

    fn tell(&mut self, order: &str) -> TestResult<String> {
        writeln!(self.orders, "{order}")?;
        self.answer()
    }

    /// Makes two instances and counts in them: `a` to 3, `b` to 1.
    fn begin(&mut self) -> TestResult {
        for (order, answer) in [
            ("create a", "ok 0"),
            ("create b", "ok 0"),
            ("commit a", "ok 1"),
            ("commit b", "ok 1"),
            ("commit a", "ok 2"),
            ("commit a", "ok 3"),
        ] {
            assert_eq!(self.tell(order)?, answer, "{order}");
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens the root and compares each instance with what was acknowledged: `a` may have one commit
/// more, when the outcome of one was unknown.
async fn assert_there(root: &Path, acknowledged: &[(&str, u64)], unknown: u64) -> TestResult {
    let store = Store::open(root, Untyped).await?;
    for (name, acknowledged) in acknowledged.iter().copied() {
        let most = acknowledged + if name == "a" { unknown } else { 0 };
        let found = store.get(&id(name)).await.map_err(|error| format!("{name} of {acknowledged}: {error}"))?;
        let record = found.record().await?;
        let value = record.state["value"].as_u64().ok_or("no value")?;
        assert!((acknowledged..=most).contains(&value), "{name} is at {value}, {acknowledged} was acknowledged");
        assert_eq!(record.last_event_seq, value, "{name}: half a commit");
        let events = View::open(root)?.events(&id(name), 1)?;
        let counted = events.iter().map(fiefdom::Event::data_as::<u64>).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(counted, (1..=value).collect::<Vec<_>>(), "{name}");
        // The store works again.
        found.append("after", ()).await?;
    }
    store.shutdown().await?;
    Ok(())
}

/// The flush of a commit fails: it is unknown, nothing more is taken, and what was acknowledged is
/// still read.
fn poison(disk: &BadDisk, subject: &mut Subject, which: Which, once: bool) -> TestResult {
    let fault = which(&disk.faults);
    disk.faults.once.store(once, Ordering::SeqCst);
    fault.store(true, Ordering::SeqCst);
    assert_eq!(subject.tell("commit a")?, "unknown");
    // A disk that works again changes nothing: the pages of the failed flush may be gone.
    fault.store(false, Ordering::SeqCst);
    assert_eq!(subject.tell("commit a")?, "poisoned");
    assert_eq!(subject.tell("commit b")?, "poisoned");
    disk.faults.once.store(false, Ordering::SeqCst);
    fault.store(true, Ordering::SeqCst);
    assert_eq!(subject.tell("read a")?, "ok 3");
    assert_eq!(subject.tell("read b")?, "ok 1");
    assert_eq!(subject.tell("shutdown")?, "poisoned");
    Ok(())
}

type Which = fn(&Faults) -> &AtomicBool;

async fn poison_and_recover(what: &str, which: Which) -> TestResult {
    for once in [false, true] {
        let Some(mut disk) = bad_disk()? else { return Ok(()) };
        let mut subject = Subject::start(&disk.root())?;
        subject.begin()?;
        poison(&disk, &mut subject, which, once)?;
        drop(subject);
        disk.mend()?;
        assert_there(&disk.root(), &[("a", 3), ("b", 1)], 1).await?;
        let refused = disk.faults.refused.load(Ordering::SeqCst);
        let how = if once { "once, then again" } else { "from then on" };
        common::shown!("{what} refused {how} ({refused} refused), unknown, then poisoned, 0 lost");
    }
    Ok(())
}

#[tokio::test]
async fn a_block_write_that_fails_poisons_the_writer_and_loses_nothing_acknowledged() -> TestResult {
    poison_and_recover("block writes", |faults| &faults.writes).await
}

#[tokio::test]
async fn a_block_flush_that_fails_poisons_the_writer_and_loses_nothing_acknowledged() -> TestResult {
    poison_and_recover("flushes", |faults| &faults.flushes).await
}

#[tokio::test]
async fn a_disk_that_fails_and_is_mounted_again_without_a_reboot_loses_nothing_acknowledged() -> TestResult {
    let Some(mut disk) = bad_disk()? else { return Ok(()) };
    let mut subject = Subject::start(&disk.root())?;
    assert_eq!(subject.tell("create a")?, "ok 0");
    // Filler is written ahead: the flushes behind it bring no directory to the disk.
    for nth in 1..=100 {
        assert_eq!(subject.tell("commit a")?, format!("ok {nth}"));
    }
    assert_eq!(subject.tell("create b")?, "ok 0");
    assert_eq!(subject.tell("commit b")?, "ok 1");
    disk.faults.writes.store(true, Ordering::SeqCst);
    assert_eq!(subject.tell("commit a")?, "unknown");
    drop(subject);
    disk.mend()?;
    assert_there(&disk.root(), &[("a", 100), ("b", 1)], 1).await?;
    common::shown!("a failed disk mounted again in the same boot, 101 acknowledged commits, 0 lost");
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_flushed_keep_the_log_and_the_commits_stand() -> TestResult {
    let kinds: [(&str, Which); 2] = [("block writes", |faults| &faults.writes), ("flushes", |faults| &faults.flushes)];
    for ((what, which), once) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let Some(mut disk) = bad_disk()? else { return Ok(()) };
        let mut subject = Subject::start(&disk.root())?;
        subject.begin()?;
        // The log is on disk; what is left is to bring the files there.
        disk.faults.once.store(once, Ordering::SeqCst);
        which(&disk.faults).store(true, Ordering::SeqCst);
        let said = subject.tell("shutdown")?;
        drop(subject);
        if once {
            // The second try writes new files, unless the file system has given up meanwhile.
            assert!(said == "ok 0" || segments_left(&disk.root())? > 0, "{what}: {said}");
        } else {
            assert!(said.starts_with("error Io"), "{said}");
            assert!(segments_left(&disk.root())? > 0, "{what}: the log went before the files were on disk");
        }
        disk.mend()?;
        assert_there(&disk.root(), &[("a", 3), ("b", 1)], 0).await?;
        common::shown!("{what} refused in a checkpoint{}, 0 lost", if once { " once" } else { ", the log kept" });
    }
    Ok(())
}

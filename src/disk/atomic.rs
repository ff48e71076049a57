//! Replacing a file in one step: its readers see the old bytes or the new, never a mixture. Who may
//! replace it is decided elsewhere: no lock is taken here.

use std::io;

use super::fs::{Dir, FILE_MODE, File};
use super::layout;
use crate::error::Result;
use crate::mutants::{Protection, without};

/// How sure the caller must be that the new bytes are there after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Not at all: the commit log still has them.
    No,
    /// The bytes and the name are on disk before this returns.
    Yes,
}

/// Gives `name` in `dir` the content `bytes`, keeping the mode that it has.
///
/// A failure leaves the old file as it was. The caller is the only one to write this name.
pub(crate) fn replace(dir: &Dir, name: &str, bytes: &[u8], sync: Sync) -> Result<()> {
    replace_with(dir, name, sync, |file| file.write_all(bytes))
}

/// [`replace`], with the content that `write` gives to the new file.
pub(crate) fn replace_with(
    dir: &Dir,
    name: &str,
    sync: Sync,
    write: impl FnOnce(&mut File) -> Result<()>,
) -> Result<()> {
    if without(Protection::Replacement) {
        let mut file = dir.open_or_create_file(name)?;
        file.set_len(0)?;
        write(&mut file)?;
        return if sync == Sync::Yes { file.sync_all().and_then(|()| dir.sync()) } else { Ok(()) };
    }
    stage(dir, name, sync, write)?;
    publish(dir, name, sync)
}

/// The first half of [`replace_with`]: the content, under a temporary name. What a crash leaves of it
/// is overwritten by the next try.
pub(crate) fn stage(dir: &Dir, name: &str, sync: Sync, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mode = dir.stat(name)?.map_or(FILE_MODE, |stat| stat.mode);
    let temporary = layout::temporary(name);
    let mut file = match dir.create_file(&temporary, mode) {
        Err(e) if e.io_kind() == Some(io::ErrorKind::AlreadyExists) => {
            dir.remove_file(&temporary)?;
            dir.create_file(&temporary, mode)?
        }
        file => file?,
    };
    let staged = write(&mut file).and_then(|()| if sync == Sync::Yes { file.sync_all() } else { Ok(()) });
    staged.inspect_err(|_| discard(dir, &temporary))
}

/// The second half: what was staged takes the place of `name`.
pub(crate) fn publish(dir: &Dir, name: &str, sync: Sync) -> Result<()> {
    let temporary = layout::temporary(name);
    dir.rename(&temporary, dir, name).inspect_err(|_| discard(dir, &temporary))?;
    if sync == Sync::Yes { dir.sync() } else { Ok(()) }
}

/// The first error is the one to tell; a left-over is overwritten by the next try.
fn discard(dir: &Dir, temporary: &str) {
    let _ = dir.remove_file(temporary);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Dir::open(temp.path()).expect("open");
        (temp, dir)
    }

    #[test]
    fn the_mode_is_kept_and_private_by_default() {
        let (temp, dir) = dir();
        let path = temp.path().join("f");
        let mode = || std::fs::metadata(&path).expect("stat").permissions().mode() & 0o7777;
        replace(&dir, "f", b"one", Sync::Yes).expect("write");
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).expect("chmod");
        replace(&dir, "f", b"two", Sync::No).expect("write");
        assert_eq!((mode(), std::fs::read(&path).expect("read")), (0o664, b"two".to_vec()));
    }

    #[test]
    fn a_left_over_of_a_crash_is_overwritten_and_none_is_left() {
        let (temp, dir) = dir();
        std::fs::write(temp.path().join(layout::temporary("f")), "half").expect("write");
        replace(&dir, "f", b"whole", Sync::No).expect("write");
        assert_eq!(dir.names().expect("list"), ["f"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let (temp, dir) = dir();
        std::fs::create_dir(temp.path().join("d")).expect("mkdir");
        assert!(replace(&dir, "d", b"x", Sync::No).is_err());
        assert_eq!(dir.names().expect("list"), ["d"]);
    }
}

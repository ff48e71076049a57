//! Where a store lives: the name of the place. Nothing is opened or made here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The directory of a store. Everything is below it, so moving one directory moves everything. A path
/// is a root, too: every function that wants one takes it as it is.
///
/// ```
/// use fiefdom::DataRoot;
///
/// let fixed = DataRoot::at("/var/lib/my-tool");
/// let by_environment = DataRoot::from_env("MY_TOOL_DATA_DIR", ".my-tool")?;
/// # Ok::<(), fiefdom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRoot(PathBuf);

impl DataRoot {
    /// This directory. It is made when a store is opened in it.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory that the environment variable names, else `$HOME/<below_home>`. An empty
    /// variable counts as unset.
    ///
    /// # Errors
    ///
    /// [`Error::Root`] when neither the variable nor `HOME` is set.
    pub fn from_env(variable: &str, below_home: &str) -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self::choose(set(variable), set("HOME"), variable, below_home)
    }

    fn choose(named: Option<OsString>, home: Option<OsString>, variable: &str, below_home: &str) -> Result<Self> {
        match (named, home) {
            (Some(path), _) => Ok(Self(path.into())),
            (None, Some(home)) => Ok(Self(Path::new(&home).join(below_home))),
            (None, None) => Err(Error::Root {
                path: below_home.into(),
                reason: format!("neither {variable} nor HOME is set; set {variable}"),
            }),
        }
    }

    /// `<name>` in the nearest directory, from the current one upwards, that holds `.git`.
    ///
    /// ```
    /// use fiefdom::DataRoot;
    ///
    /// // The project that the tool is run in, else the user's own.
    /// let root = match DataRoot::in_project(".my-tool") {
    ///     Ok(root) => root,
    ///     Err(_) => DataRoot::from_env("MY_TOOL_DATA_DIR", ".my-tool")?,
    /// };
    /// println!("instances are in {}", root.path().display());
    /// # Ok::<(), fiefdom::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Root`] when there is none; [`Error::Io`] when there is no current directory.
    pub fn in_project(name: &str) -> Result<Self> {
        let current =
            std::env::current_dir().map_err(|e| Error::io("find the current directory", Path::new("."), e))?;
        Self::in_project_of(&current, name)
    }

    fn in_project_of(start: &Path, name: &str) -> Result<Self> {
        let top = start.ancestors().find(|dir| dir.join(".git").exists());
        top.map(|dir| Self(dir.join(name))).ok_or_else(|| Error::Root {
            path: start.to_owned(),
            reason: "neither it nor a directory above it holds .git; run this inside a project, or name a directory"
                .into(),
        })
    }

    /// The path, as it was given.
    ///
    /// ```
    /// use std::path::Path;
    /// use fiefdom::DataRoot;
    ///
    /// assert_eq!(DataRoot::at("/var/lib/my-tool").path(), Path::new("/var/lib/my-tool"));
    /// ```
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl<P: Into<PathBuf>> From<P> for DataRoot {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_over_home() {
        let choose = |named: Option<&str>, home: Option<&str>| {
            DataRoot::choose(named.map(Into::into), home.map(Into::into), "V", ".tool")
        };
        assert_eq!(choose(Some("/a"), Some("/h")).expect("a root").path(), Path::new("/a"));
        assert_eq!(choose(None, Some("/h")).expect("a root").path(), Path::new("/h/.tool"));
        assert!(choose(None, None).expect_err("no root").to_string().contains("set V"));
    }

    #[test]
    fn the_project_is_found_from_any_directory_in_it() {
        let temp = tempfile::tempdir().expect("a directory");
        let deep = temp.path().join("a/b/c");
        std::fs::create_dir_all(&deep).expect("mkdir");
        assert!(
            DataRoot::in_project_of(&deep, ".tool").is_err()
                || temp.path().ancestors().any(|d| d.join(".git").exists())
        );
        std::fs::create_dir(temp.path().join(".git")).expect("mkdir");
        assert_eq!(DataRoot::in_project_of(&deep, ".tool").expect("a root").path(), temp.path().join(".tool"));
    }
}

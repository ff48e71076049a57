//! Instances in and out of a store as files: [`Store::export`], [`Store::import`]. The archive itself
//! is read and written in `admin/archive/`, never here.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::admin::archive::{self, Exported, ImportOptions, Imported, Importer};
use crate::blocking;
use crate::error::{Error, Result};
use crate::kind::Instance;
use crate::record::InstanceId;
use crate::store::Store;
use crate::view::View;

impl<I: Instance> Store<I> {
    /// Writes an instance into `writer` as a `.tar.gz`, and gives the writer back. The instance may be
    /// at work meanwhile, in this process or another: nothing is locked, and no commit waits.
    ///
    /// State and events are those of one commit: the last one before the call, or a later one (of an
    /// instance that another process owns, of at most 100 ms earlier by default). Files are copied
    /// after that, each as it is found then. What lies in `workspace/` and is being written is as
    /// consistent as its writer makes it: have it pause if that matters.
    ///
    /// Left out, and named in [`Exported::left_out`], are links that may lead out of the instance,
    /// pipes, sockets and devices, and names that are not UTF-8. Owners, times, further names of one
    /// file, and set-id bits are not kept. Memory is bounded; `writer` is used on a thread that may
    /// block.
    ///
    /// When the future is dropped the export goes on to its end.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::new()).await?;
    /// let (bytes, exported) = store.export(build.id(), Vec::new()).await?;
    /// println!("revision {} in {} bytes", exported.revision, bytes.len());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Gone`] when it is deleted meanwhile; [`Error::Corrupt`],
    /// [`Error::NewerFormat`]; [`Error::Io`], also what `writer` says.
    pub async fn export<W: Write + Send + 'static>(&self, id: &InstanceId, writer: W) -> Result<(W, Exported)> {
        let (view, id) = (self.up_to_date(id).await?, id.clone());
        blocking::run(move || view.export(&id, writer)).await
    }

    /// [`Store::export`] into a file, which appears whole and durable, or not at all. One that is
    /// there is replaced. Its mode is 0600. When the future is dropped the export goes on to its end.
    ///
    /// ```
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// let exported = store.export_file(build.id(), dir.path().join("build-42.tar.gz")).await?;
    /// for left_out in &exported.left_out {
    ///     eprintln!("left out: {} ({})", left_out.path, left_out.reason);
    /// }
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::export`].
    pub async fn export_file(&self, id: &InstanceId, path: impl Into<PathBuf>) -> Result<Exported> {
        let (view, id, path) = (self.up_to_date(id).await?, id.clone(), path.into());
        blocking::run(move || view.export_file(&id, &path, |_| true)).await
    }

    /// A view that sees every commit of this process to `id`.
    async fn up_to_date(&self, id: &InstanceId) -> Result<View> {
        if let Some(lane) = self.engine.ground.log.feed(id).lane() {
            blocking::run(move || lane.materialise()).await?;
        }
        Ok(self.view())
    }

    /// Makes an instance of what [`Store::export`] wrote: the same state, events and files, under the
    /// same id or a new one, with a new uid. Its record says where it comes from
    /// ([`Record::origin`](crate::Record::origin)), and so does its new last event,
    /// `instance.imported`. What was at work is `interrupted`.
    ///
    /// The archive may be anybody's. It is unpacked out of sight, within the limits of the options,
    /// checked as a whole, made durable, and appears in one step. Of several who import one id one
    /// wins. Anything that an export does not write is refused, and leaves nothing behind:
    /// absolute paths, `..`, links that may lead out of the instance, hard links, devices, pipes,
    /// set-id bits, an entry twice, names that are not UTF-8, an end that is missing or is none.
    ///
    /// When the future is dropped the import goes on to its end.
    ///
    /// ```
    /// use fiefdom::{ImportOptions, NewInstance, Store, Untyped};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let store = Store::open(dir.path(), Untyped).await?;
    /// let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// build.update(|state| state["step"] = "compile".into()).await?;
    ///
    /// let (archive, _) = store.export(build.id(), Vec::new()).await?;
    /// let options = ImportOptions::with_id("build-42-copy".parse()?);
    /// let imported = store.import(std::io::Cursor::new(archive), options).await?;
    ///
    /// let copy = store.get(&imported.instance_id).await?;
    /// assert_eq!(copy.state().await?["step"], "compile");
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] for an archive that is refused, with the reason;
    /// [`Error::AlreadyExists`]; [`Error::NewerFormat`]; [`Error::KindMismatch`] unless the store is
    /// for its kind; [`Error::TooLarge`] when its record is larger than this store allows;
    /// [`Error::Closed`] when the log has failed ([`Error::Poisoned`]); [`Error::Io`]. Nothing is
    /// imported then. Should the last flush of the directory fail, the error is [`Error::Io`] too, and
    /// the instance may be there.
    pub async fn import<R: Read + Send + 'static>(&self, reader: R, options: ImportOptions) -> Result<Imported> {
        let ground = Arc::clone(&self.engine.ground);
        blocking::run(move || {
            if ground.log.stats().poisoned {
                return Err(Error::Closed);
            }
            let accepts = |id: &InstanceId, kind: &str| {
                if I::accepts(kind) {
                    return Ok(());
                }
                Err(Error::KindMismatch { id: id.clone(), expected: I::KIND, found: kind.to_owned() })
            };
            let writer = ground.log.writer_id();
            let importer = Importer { root: &ground.root, writer, options: &ground.options, accepts: &accepts };
            archive::read(&importer, reader, &options)
        })
        .await
    }
}

impl View {
    /// [`Store::export`], without a store. It blocks, as every function of a view does. Of an
    /// instance that is live it sees what its files have.
    ///
    /// ```
    /// use fiefdom::View;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.flush().await?;
    /// let view = View::open(dir.path())?;
    /// let (archive, exported) = view.export(build.id(), Vec::new())?;
    /// assert!(!archive.is_empty() && exported.left_out.is_empty());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::export`].
    pub fn export<W: Write>(&self, id: &InstanceId, writer: W) -> Result<(W, Exported)> {
        archive::write(self.root_of(id)?, id, writer)
    }

    /// [`Store::export_file`], without a store. It blocks. `watch` is told how many bytes are written, and
    /// stops the export by returning `false`: then there is no file.
    ///
    /// ```
    /// use fiefdom::View;
    ///
    /// # use fiefdom::{NewInstance, Store, Untyped};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> fiefdom::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let store = Store::open(dir.path(), Untyped).await?;
    /// # let build = store.create(NewInstance::with_id("build-42".parse()?)).await?;
    /// # store.flush().await?;
    /// let (view, path) = (View::open(dir.path())?, dir.path().join("build-42.tar.gz"));
    /// let most = 10 << 30;
    /// let exported = view.export_file(build.id(), &path, |bytes| bytes <= most)?;
    /// assert_eq!(exported.instance_id, *build.id());
    /// # store.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Store::export`]; [`Error::Io`] when it was stopped.
    pub fn export_file(&self, id: &InstanceId, path: &Path, watch: impl FnMut(u64) -> bool) -> Result<Exported> {
        archive::to_file(self.root_of(id)?, id, path, watch)
    }
}

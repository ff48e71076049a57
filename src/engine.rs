//! What all stores on one open root share: its log, its registry, its limits. And how an instance
//! of a kind is brought to life. Who may be live is the registry's to say, never decided here.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures::FutureExt as _;
use ractor::{Actor, ActorCell, ActorRef};
use tokio::sync::oneshot;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::actors::instance::{Core, Live, submit_and_wait};
use crate::actors::registry::{Admitted, Occupant, Opener, Registry, RegistryMsg};
use crate::actors::transaction::{Stamp, Transaction};
use crate::actors::{Admission, Permit, Queued};
use crate::blocking;
use crate::control::{Operation, Server, WireDone};
use crate::creations::Creations;
use crate::disk::lock::Writer;
use crate::disk::root::Root;
use crate::disk::socket;
use crate::error::{Error, Result};
use crate::kind::Instance;
use crate::log::activate::{self, Activated, Birth};
use crate::log::{Log, recover, trash};
use crate::metrics;
use crate::options::{Durability, Options};
use crate::record::{InstanceId, RawRecord, Record, migrate};
use crate::root::DataRoot;

/// One open root.
pub(crate) struct Engine {
    pub(crate) ground: Arc<Ground>,
    registry: ActorRef<RegistryMsg>,
    queued: Arc<AtomicUsize>,
    /// Hears what other processes ask for.
    server: Option<Server>,
}

/// What is below the actors.
pub(crate) struct Ground {
    pub(crate) root: Arc<Root>,
    pub(crate) log: Arc<Log>,
    pub(crate) options: Options,
    creations: Arc<Creations>,
}

impl Engine {
    /// Opens the root, recovers what dead writers left, and starts the threads and the registry.
    pub(crate) async fn open(root: DataRoot, mut options: Options) -> Result<Arc<Self>> {
        options.live_instances = options.live_instances.min(half_of_open_files()).max(1);
        metrics::describe();
        let (ground, socket) = blocking::run(move || {
            let root = Arc::new(Root::open_or_create(root.path(), options.allow_network_file_system)?);
            recover::recover(&root, None)?;
            let writer = Writer::create(&root)?;
            let socket = socket::listen(&writer.dir);
            let log = Arc::new(Log::start(Arc::clone(&root), writer, options.clone())?);
            Ok((Arc::new(Ground { root, log, options, creations: Arc::default() }), socket))
        })
        .await?;
        let registry = Registry { options: ground.options.clone() };
        let (registry, _) = Actor::spawn(None, registry, ()).await.map_err(|_| Error::Closed)?;
        Ok(Arc::new_cyclic(|engine| {
            let server = Server::start(socket, engine, ground.options.record_bytes);
            Self { ground, registry, queued: Arc::default(), server }
        }))
    }

    /// A place for one operation.
    pub(crate) fn queue(&self) -> Result<Queued> {
        Queued::enter(&self.queued, self.ground.options.queued_per_store)
    }

    /// Operations under way.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Sends to the registry and waits for its answer: the one place that turns the framework's
    /// errors into ours.
    async fn call<T>(&self, message: impl FnOnce(ractor::RpcReplyPort<T>) -> RegistryMsg) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.registry.cast(message(reply.into())).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)
    }

    /// The live instance, and the right to one operation in it.
    pub(crate) async fn live<I: Instance>(&self, id: &InstanceId, queued: Queued) -> Result<(Arc<Live<I>>, Permit)> {
        let opener = self.opener::<I>(id.clone());
        let admitted =
            self.call(|reply| RegistryMsg::Get { id: id.clone(), create: false, opener, queued, reply }).await??;
        downcast::<I>(id, admitted)
    }

    /// Makes a new instance, durably. `first` is a part of the commit that makes it.
    pub(crate) async fn create<I: Instance>(
        &self,
        record: Record<I::State>,
        durability: Option<Durability>,
        first: impl FnOnce(&mut Transaction<I::State>) -> Result<()> + Send + 'static,
    ) -> Result<Arc<Live<I>>> {
        let (id, queued) = (record.id.clone(), self.queue()?);
        let opener = self.creator::<I>(record, durability.unwrap_or(self.ground.options.durability), first);
        let admitted =
            self.call(|reply| RegistryMsg::Get { id: id.clone(), create: true, opener, queued, reply }).await??;
        Ok(downcast::<I>(&id, admitted)?.0)
    }

    /// Deletes an instance, durably, and removes its files.
    pub(crate) async fn delete<I: Instance>(&self, id: &InstanceId) -> Result<()> {
        let opener = self.opener::<I>(id.clone());
        let trashed = self.call(|reply| RegistryMsg::Delete { id: id.clone(), opener, reply }).await??;
        let ground = Arc::clone(&self.ground);
        match trashed {
            Some(name) => blocking::run(move || trash::clear(&ground.root, Some(ground.log.writer_id()), &name)).await,
            None => Ok(()),
        }
    }

    /// Does what another process asks for; `None` when the instance is not live here.
    pub(crate) async fn control(&self, id: &InstanceId, operation: Operation) -> Result<Option<WireDone>> {
        let queued = self.queue()?;
        match self.call(|reply| RegistryMsg::Find { id: id.clone(), reply }).await? {
            Some(occupant) => occupant.control(operation, queued).await,
            None => Ok(None),
        }
    }

    /// Lets an instance go if nobody uses it. Does not wait for it.
    pub(crate) fn release(&self, id: &InstanceId) {
        // A registry that is gone has let everything go.
        let _ = self.registry.cast(RegistryMsg::Release(id.clone()));
    }

    pub(crate) async fn live_count(&self) -> Result<usize> {
        self.call(RegistryMsg::Count).await
    }

    /// Lets every instance go, empties the log, and gives up the writer.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        if let Some(server) = &self.server {
            server.close().await;
        }
        let released = self.call(RegistryMsg::Shutdown).await?;
        self.registry.stop(None);
        let ground = Arc::clone(&self.ground);
        let closed = blocking::run(move || ground.log.close()).await;
        // When the log is closed every file is on disk, whatever could not be written at first.
        closed.map_err(|error| released.err().unwrap_or(error))
    }

    /// Opens an existing instance.
    fn opener<I: Instance>(&self, id: InstanceId) -> Opener {
        let ground = Arc::clone(&self.ground);
        Box::new(move |registry: ActorCell| {
            // The epoch is known when the record is read.
            let span = tracing::info_span!("activate", %id, epoch = Empty);
            async move {
                let (activated, record) = blocking::run({
                    let ground = Arc::clone(&ground);
                    move || {
                        let mut activated = activate::open(&ground.root, &ground.log, &ground.options, &id)?;
                        let raw = activated.record.take().ok_or_else(|| Error::Crashed { id: id.clone() })?;
                        // What is refused is let go as it is: not even the cache of its event log is written.
                        typed::<I>(raw).map(|record| (activated, record))
                    }
                })
                .await?;
                let stamp = ground.stamp(record.epoch + 1);
                let core = ground.core(activated, record, stamp);
                let live: Arc<dyn Occupant> = Live::<I>::spawn(core, Arc::clone(&ground.log), registry).await?;
                Ok(live)
            }
            .instrument(span)
            .boxed()
        })
    }

    /// Makes a new instance: directory, lock, and the commit of its first record.
    fn creator<I: Instance>(
        &self,
        record: Record<I::State>,
        durability: Durability,
        first: impl FnOnce(&mut Transaction<I::State>) -> Result<()> + Send + 'static,
    ) -> Opener {
        let ground = Arc::clone(&self.ground);
        Box::new(move |registry: ActorCell| {
            let span = tracing::info_span!("create", id = %record.id, epoch = 1);
            async move {
                let activated = ground.make(&record).await?;
                let lane = Arc::clone(&activated.lane);
                let stamp = ground.stamp(1);
                let created = async {
                    let mut tx = Transaction::new(&record);
                    first(&mut tx)?;
                    let durability = tx.durability.unwrap_or(durability);
                    let sealed = tx.seal_creation(stamp)?;
                    let record = Record::clone(&sealed.record);
                    let core = ground.core(activated, record, stamp);
                    submit_and_wait(&ground.log, &core, 0, sealed, durability).await?;
                    Ok(core)
                };
                let core = match created.await {
                    Ok(core) => core,
                    Err(error) => {
                        // Nothing half-made stays, unless it is unknown whether it was made.
                        if !matches!(error, Error::Unknown { .. }) {
                            blocking::run(move || lane.abandon()).await?;
                        }
                        return Err(error);
                    }
                };
                let live: Arc<dyn Occupant> = Live::<I>::spawn(core, Arc::clone(&ground.log), registry).await?;
                Ok(live)
            }
            .instrument(span)
            .boxed()
        })
    }
}

impl Drop for Engine {
    /// Without [`Engine::shutdown`] the actors end, and the log is left for recovery.
    fn drop(&mut self) {
        self.registry.stop(None);
    }
}

impl Ground {
    /// Makes and locks the directory of a new instance.
    async fn make<S>(self: &Arc<Self>, record: &Record<S>) -> Result<Activated> {
        let birth = Birth { id: record.id.clone(), uid: record.uid, at: record.created_at };
        let ground = Arc::clone(self);
        let create = move |births: &[Birth]| activate::create(&ground.root, &ground.log, &ground.options, births);
        self.creations.make(birth, create).await
    }

    pub(crate) fn stamp(&self, epoch: u64) -> Stamp {
        Stamp {
            epoch,
            writer: self.log.writer_id(),
            record_bytes: self.options.record_bytes,
            event_bytes: self.options.event_bytes,
        }
    }

    pub(crate) fn core<S>(&self, activated: Activated, record: Record<S>, stamp: Stamp) -> Arc<Core<S>> {
        Core::new(
            activated.lane,
            Admission::new(self.options.queued_per_instance),
            record,
            self.log.changes(),
            stamp,
            self.options.durability,
        )
    }
}

fn downcast<I: Instance>(id: &InstanceId, (live, permit): Admitted) -> Result<(Arc<Live<I>>, Permit)> {
    let live: Arc<dyn Any + Send + Sync> = live;
    match live.downcast::<Live<I>>() {
        Ok(live) => Ok((live, permit)),
        Err(_) => Err(Error::KindMismatch { id: id.clone(), expected: I::KIND, found: I::KIND.to_owned() }),
    }
}

/// Half of what the process may open: a live instance holds one descriptor, and files come and go.
fn half_of_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit / 2).unwrap_or(usize::MAX))
}

/// Gives a record its typed state, bringing an older one up to date.
pub(crate) fn typed<I: Instance>(raw: RawRecord) -> Result<Record<I::State>> {
    let id = raw.id.clone();
    let mismatch = |reason: String| Error::Schema { id: id.clone(), kind: I::KIND, version: I::SCHEMA_VERSION, reason };
    if !I::accepts(&raw.kind) {
        return Err(Error::KindMismatch { id, expected: I::KIND, found: raw.kind.into_owned() });
    }
    // A kind that takes others takes them as they are: their versions mean nothing to it.
    let is_own = raw.kind == I::KIND;
    let from = if is_own { raw.schema_version } else { I::SCHEMA_VERSION };
    let state = migrate::up_to_date(&raw.state, from, I::SCHEMA_VERSION, I::migrate).map_err(mismatch)?;
    let mut record = raw.with_state(state);
    if is_own {
        record.schema_version = I::SCHEMA_VERSION;
        // Nothing to copy, with every commit.
        record.kind = I::KIND.into();
    }
    Ok(record)
}

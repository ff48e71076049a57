//! The factory actor: holds what is prepared once and shared by every session.
//!
//! ```text
//! Store ──Get──> factory ──(first use)──> task: prepare()
//!   ^               │  <────Prepared──────────┘
//!   └──Arc<Prepared>┘    every waiter gets it, or the error
//! ```
//!
//! Its loop awaits nothing: `prepare` runs in a task of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::error::{BoxError, Error, Result, panic_message};
use crate::kind::Instance;

/// Most callers that wait for one `prepare`.
const WAITERS: usize = 65_536;

pub(crate) type Reply<I> = RpcReplyPort<Result<Arc<<I as Instance>::Prepared>>>;

pub(crate) enum FactoryMsg<I: Instance> {
    /// The prepared value, made if there is none.
    Get(Reply<I>),
    /// A new prepared value, in the place of the old one.
    Refresh(Reply<I>),
    /// The task is done.
    Prepared(Result<I::Prepared, BoxError>),
}

pub(crate) struct Factory<I> {
    pub(crate) kind: Arc<I>,
}

pub(crate) struct State<I: Instance> {
    ready: Option<Arc<I::Prepared>>,
    /// Who waits for the task that is under way.
    waiters: Vec<Reply<I>>,
    /// Whether a `Refresh` came while a task was under way that had begun before it.
    again: Vec<Reply<I>>,
    preparing: bool,
}

impl<I: Instance> Factory<I> {
    fn begin(&self, myself: &ActorRef<FactoryMsg<I>>, state: &mut State<I>) {
        state.preparing = true;
        let (kind, myself) = (Arc::clone(&self.kind), myself.clone());
        tokio::spawn(async move {
            let made = AssertUnwindSafe(kind.prepare()).catch_unwind().await;
            let made = made.unwrap_or_else(|panic| Err(format!("prepare panicked: {}", panic_message(&*panic)).into()));
            // An actor that is gone has nobody waiting.
            let _ = myself.cast(FactoryMsg::Prepared(made));
        });
    }
}

impl<I: Instance> Actor for Factory<I> {
    type Msg = FactoryMsg<I>;
    type State = State<I>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(State { ready: None, waiters: Vec::new(), again: Vec::new(), preparing: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            FactoryMsg::Get(reply) => match &state.ready {
                Some(ready) => {
                    let _ = reply.send(Ok(Arc::clone(ready)));
                }
                None => wait(&mut state.waiters, reply),
            },
            FactoryMsg::Refresh(reply) if state.preparing => wait(&mut state.again, reply),
            FactoryMsg::Refresh(reply) => wait(&mut state.waiters, reply),
            FactoryMsg::Prepared(made) => {
                state.preparing = false;
                let outcome = match made {
                    Ok(prepared) => {
                        let prepared = Arc::new(prepared);
                        state.ready = Some(Arc::clone(&prepared));
                        Ok(prepared)
                    }
                    Err(e) => Err(Error::Prepare { kind: I::KIND, source: e.into() }),
                };
                for waiter in std::mem::replace(&mut state.waiters, std::mem::take(&mut state.again)) {
                    // A waiter that gave up is no error.
                    let _ = waiter.send(outcome.clone());
                }
            }
        }
        if !state.waiters.is_empty() && !state.preparing {
            self.begin(&myself, state);
        }
        Ok(())
    }
}

fn wait<T>(waiters: &mut Vec<RpcReplyPort<Result<T>>>, reply: RpcReplyPort<Result<T>>) {
    if waiters.len() < WAITERS {
        waiters.push(reply);
    } else {
        let _ = reply.send(Err(Error::Overloaded { what: "callers waiting for one prepare", limit: WAITERS as u64 }));
    }
}

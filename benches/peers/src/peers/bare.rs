//! A bare call of a ractor actor: it answers with what it holds, and does nothing else.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;

use super::document::Document;
use crate::harness::Outcome;

pub struct Holder;

pub type Get = RpcReplyPort<Arc<Document>>;

/// A handle on it.
#[derive(Clone)]
pub struct Held(ActorRef<Get>);

impl Held {
    pub async fn spawn() -> Outcome<Self> {
        Ok(Self(Actor::spawn(None, Holder, ()).await?.0))
    }

    pub async fn get(&self) -> Arc<Document> {
        let (reply, answer) = oneshot::channel();
        self.0.cast(reply.into()).expect("the actor lives");
        answer.await.expect("the actor answers")
    }

    pub fn stop(&self) {
        self.0.stop(None);
    }
}

impl Actor for Holder {
    type Msg = Get;
    type State = Arc<Document>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Get>, (): ()) -> Result<Arc<Document>, ActorProcessingErr> {
        Ok(Arc::new(Document::new()))
    }

    async fn handle(&self, _: ActorRef<Get>, reply: Get, state: &mut Arc<Document>) -> Result<(), ActorProcessingErr> {
        let _ = reply.send(Arc::clone(state));
        Ok(())
    }
}

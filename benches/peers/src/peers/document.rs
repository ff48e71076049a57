//! The document that every contender stores.

use fiefdom::{BoxError, Instance, NewInstance};
use serde::{Deserialize, Serialize};

/// About 200 bytes of JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Document {
    pub count: u64,
    pub step: String,
    pub branch: String,
    pub note: String,
}

impl Document {
    pub fn new() -> Self {
        Self { count: 0, step: "compile".into(), branch: "main".into(), note: "x".repeat(140) }
    }
}

/// The kind of instance whose state it is.
pub struct Work;

impl Instance for Work {
    const KIND: &'static str = "work";
    type State = Document;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Document, BoxError> {
        Ok(Document::new())
    }
}

//! Data that outlives the program that wrote it: recipes of version 1, read by a program that is at
//! version 3.
//!
//! ```sh
//! cargo run --example migrate_state       # the program of last year: writes version 1
//! cargo run --example migrate_state       # the program of today: reads and writes version 3
//! ```
//!
//! The first argument is the data root; without it that is `target/migrate_state`.

use std::path::PathBuf;

use fiefdom::{BoxError, Instance, Migration, NewInstance, Result, Store, Untyped};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

struct Recipe;

/// Version 3. Version 1 was `{"title": "...", "minutes": "45"}`; version 2 had the minutes as a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RecipeState {
    title: String,
    seconds: u64,
    tags: Vec<String>,
}

impl Instance for Recipe {
    const KIND: &'static str = "recipe";
    const SCHEMA_VERSION: u32 = 3;
    type State = RecipeState;
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), new: &NewInstance) -> Result<RecipeState, BoxError> {
        Ok(RecipeState { title: new.input_as()?, seconds: 0, tags: Vec::new() })
    }

    /// One step per version, each from the shape before it. A step is never changed once it is out.
    fn migrate(from: u32, mut state: Value) -> Result<Value, BoxError> {
        match from {
            1 => {
                let minutes: u64 = state["minutes"].as_str().ok_or("minutes is no text")?.parse()?;
                state["minutes"] = json!(minutes);
                Ok(state)
            }
            2 => {
                let minutes = state["minutes"].as_u64().ok_or("minutes is no number")?;
                Ok(json!({ "title": state["title"], "seconds": minutes * 60, "tags": [] }))
            }
            _ => Err(format!("there is no version {from}").into()),
        }
    }
}

/// What the program was a year ago. It had the type of its day; here plain JSON stands for it.
async fn last_year(root: PathBuf) -> Result<()> {
    let store = Store::open(root, Untyped).await?;
    for (id, title, minutes) in [("bread", "Bread", "180"), ("soup", "Soup", "45"), ("toast", "Toast", "a few")] {
        let new = NewInstance::with_id(id.parse()?).kind(Recipe::KIND);
        store.create(new.input(json!({ "title": title, "minutes": minutes }))).await?;
        println!("wrote {id} as version 1");
    }
    store.shutdown().await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let root: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| "target/migrate_state".into()).into();
    if !root.join("instances").exists() {
        return Ok(last_year(root).await?);
    }
    let store = Store::open(root, Recipe).await?;
    // An instance comes up to date when it is used, and has the new shape on disk with its next commit.
    let soup = store.get(&"soup".parse()?).await?;
    soup.update(|soup| soup.tags.push("quick".into())).await?;
    println!("soup takes {} seconds and is {:?}", soup.read(|s| s.seconds).await?, soup.state().await?.tags);
    // Or all of them at once. What cannot be brought up to date stays as it was, byte for byte.
    let mut run = Migration::new().kind::<Recipe>().run(&store).await?;
    while let Some(one) = run.next().await {
        println!("{} {} -> {}: {:?}", one.id, one.from, Recipe::SCHEMA_VERSION, one.outcome);
    }
    store.shutdown().await?;
    Ok(())
}

//! A web service with one durable instance per tenant: an embedded store behind axum.
//!
//! ```sh
//! cargo run --example http_service        # arguments: data root [target/http_service], port [3000]
//! curl -X POST -H 'content-type: application/json' -d '"buy rope"' localhost:3000/tenants/ada/notes
//! curl localhost:3000/tenants/ada
//! ```
//!
//! A note is on disk before the answer 201 is sent. Ctrl-C ends it: what is under way is finished.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fiefdom::{BoxError, Error, Instance, NewInstance, Store};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

struct Tenant;

impl Instance for Tenant {
    const KIND: &'static str = "tenant";
    type State = Vec<String>; // the notes
    type Prepared = ();

    async fn prepare(&self) -> Result<(), BoxError> {
        Ok(())
    }

    fn initial(&self, (): &(), _: &NewInstance) -> Result<Vec<String>, BoxError> {
        Ok(Vec::new())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let root = args.next().unwrap_or_else(|| "target/http_service".into());
    let port: u16 = args.next().as_deref().unwrap_or("3000").parse()?;

    let store = Store::open(root, Tenant).await?;
    let app = Router::new()
        .route("/tenants/{id}", get(show))
        .route("/tenants/{id}/notes", post(add_note))
        .with_state(store.clone());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    // Caught from before anybody is told that the service is there.
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on http://{}", listener.local_addr()?);
    let interrupted = async move { interrupt.recv().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(interrupted).await?;
    store.shutdown().await?;
    Ok(())
}

async fn show(State(store): State<Store<Tenant>>, Path(id): Path<String>) -> Result<Json<Value>, Failure> {
    let notes = store.get(&id.parse()?).await?.state().await?;
    Ok(Json(json!({ "tenant": id, "notes": notes })))
}

async fn add_note(
    State(store): State<Store<Tenant>>,
    Path(id): Path<String>,
    Json(note): Json<String>,
) -> Result<StatusCode, Failure> {
    let tenant = store.get_or_create(NewInstance::with_id(id.parse()?)).await?;
    tenant.update(move |notes| notes.push(note)).await?;
    Ok(StatusCode::CREATED)
}

/// An error of the store as an HTTP answer.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failure(#[from] Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Error::InvalidId { .. } | Error::InvalidInput { .. } => StatusCode::BAD_REQUEST,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Overloaded { .. } | Error::Locked { .. } | Error::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // The other messages name paths of this machine, which are for its operator alone.
        eprintln!("{status}: {}", self.0);
        let message = if status == StatusCode::BAD_REQUEST { self.0.to_string() } else { status.to_string() };
        (status, Json(json!({ "error": message }))).into_response()
    }
}

//! `deployer store`: a store with compare-and-swap for routers on plain machines. It is one process with one file, so each
//! read returns what was written last.

mod contents;
pub(crate) mod message;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get},
};
use clap::Args;
use tokio::task::spawn_blocking;

pub(crate) use self::contents::is_name;
use self::{
    contents::{Refusal, StoreFile},
    message::{Conflict, Current, Routers, Versioned},
};
use crate::{
    adapters::token_file::TokenFile,
    color::Color,
    internal_api::{ApiError, JsonBody, listen, protected},
    monitor::page::server::serve,
    ports::RouterEntry,
    shutdown::shutdown,
};

/// The flags of `deployer store`.
#[derive(Debug, Clone, Args)]
pub struct StoreArguments {
    /// Create the file of a new store, and end. This color has the traffic, and no color is fit. The routers follow a new
    /// store, so name the color that they serve
    #[arg(long, value_name = "COLOR", conflicts_with = "listen")]
    pub create: Option<Color>,
    /// Address to listen at. Only deployers and agents may reach it: the token and the answers travel in plain text
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// File that holds the truth and the routers. Keep it on a local disk
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// File with the token of deployers and agents: one random line. A second line is accepted too, so that a token can be
    /// replaced
    #[arg(long, value_name = "FILE", required_unless_present = "create")]
    pub token_file: Option<PathBuf>,
}

/// Creates the file, or serves the store until a stop signal.
pub async fn run(arguments: &StoreArguments) -> anyhow::Result<()> {
    if let Some(active) = arguments.create {
        return Ok(StoreFile::create(&arguments.file, active)?);
    }
    let token_file = arguments.token_file.as_deref();
    let token = TokenFile::open(token_file.context("--token-file is missing")?)?;
    let store = Arc::new(StoreFile::open(&arguments.file)?);
    let listener = listen("the store", arguments.listen).await?;
    let router = protected(routes(store), token);
    tokio::select! {
        () = serve(&listener, &router) => Ok(()),
        () = shutdown() => Ok(()),
    }
}

fn routes(store: Arc<StoreFile>) -> Router {
    Router::new()
        .route("/truth", get(read_truth).put(replace_truth))
        .route("/routers", get(read_routers).put(register))
        .route("/routers/{name}/{incarnation}", delete(unregister))
        .with_state(store)
}

async fn read_truth(State(store): State<Arc<StoreFile>>) -> Json<Versioned> {
    let contents = store.contents();
    Json(Versioned {
        version: contents.version(),
        truth: contents.truth.clone(),
    })
}

async fn replace_truth(
    State(store): State<Arc<StoreFile>>,
    JsonBody(Versioned { version, truth }): JsonBody<Versioned>,
) -> Response {
    match change(move || store.replace(&version, truth)).await {
        Ok(Ok(version)) => Json(Current { version }).into_response(),
        Ok(Err(refusal)) => refused(refusal),
        Err(error) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

async fn read_routers(State(store): State<Arc<StoreFile>>) -> Json<Routers> {
    let routers = store.contents().routers.clone();
    Json(Routers { routers })
}

async fn register(
    State(store): State<Arc<StoreFile>>,
    JsonBody(router): JsonBody<RouterEntry>,
) -> Response {
    done(change(move || store.register(router)).await)
}

async fn unregister(
    State(store): State<Arc<StoreFile>>,
    Path((name, incarnation)): Path<(String, u64)>,
) -> Response {
    done(change(move || store.unregister(&name, incarnation)).await)
}

/// Writes on another thread, because the disk may be slow. The write goes on if its client disconnects.
async fn change<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> anyhow::Result<Result<T, Refusal>> {
    spawn_blocking(change)
        .await
        .context("the write ended by an error of the store; it may have landed")
}

fn done(result: anyhow::Result<Result<(), Refusal>>) -> Response {
    match result {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(refusal)) => refused(refusal),
        Err(error) => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::Conflict(version) => {
            let error = "the store holds another version: read the truth again".to_owned();
            (StatusCode::CONFLICT, Json(Conflict { error, version })).into_response()
        }
        Refusal::Invalid(message) => ApiError::invalid(message).into_response(),
        Refusal::Disk(error) => {
            let message = format!(
                "the store could not write to its disk, and the write may have landed: {error}"
            );
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

#[cfg(test)]
mod tests;

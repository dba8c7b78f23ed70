//! The Open Inference Protocol, version 2, over REST, with its binary tensor extension
//! (<https://github.com/kserve/open-inference-protocol>).
//!
//! A model that reads texts takes either `text` (BYTES) or all inputs of its graph; a model for
//! tensors takes the inputs of its graph.

mod data;
mod infer;
mod metadata;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::error::ApiError;
use crate::state::ServerState;

/// The names of the tensors for texts.
const TEXT: &str = "text";
const LABEL: &str = "label";
const CONFIDENCE: &str = "confidence";
const LOGITS: &str = "logits";
const TRUNCATED: &str = "truncated";

/// The protocol's routes that do not run the model.
pub(super) fn routes() -> OpenApiRouter<Arc<ServerState>> {
    OpenApiRouter::new()
        .routes(routes!(metadata::server))
        .routes(routes!(metadata::live))
        .routes(routes!(metadata::ready))
        .routes(routes!(metadata::model))
        .routes(routes!(metadata::model_version))
        .routes(routes!(metadata::model_ready))
        .routes(routes!(metadata::model_version_ready))
}

/// The protocol's routes that run the model.
pub(super) fn inference_routes() -> OpenApiRouter<Arc<ServerState>> {
    OpenApiRouter::new()
        .routes(routes!(infer::infer))
        .routes(routes!(infer::infer_version))
}

/// What a path names, or why it cannot be read, in the words of all other errors.
struct Names<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::from_request_parts(parts, state).await;
        let Path(names) = read.map_err(|error| ApiError::Path(error.body_text()))?;
        Ok(Self(names))
    }
}

/// Whether a path names what is served. Names are compared, and never looked for anywhere.
fn expect_model(state: &ServerState, model: &str, version: Option<&str>) -> Result<(), ApiError> {
    let same_version = version.is_none_or(|version| version == state.model_version);
    if model == state.model_name && same_version {
        return Ok(());
    }
    Err(ApiError::UnknownModel {
        asked: match version {
            Some(version) => format!("model {model:?}, version {version:?}"),
            None => format!("model {model:?}"),
        },
        served: format!(
            "model {:?}, version {:?}",
            state.model_name, state.model_version
        ),
    })
}

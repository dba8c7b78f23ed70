use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use crate::{api::error::ApiError, state::ServerState};

/// The names of the tensors of every model for texts.
pub(crate) const TEXT: &str = "text";
pub(crate) const TRUNCATED: &str = "truncated";

/// The parameters of a path. Unlike axum's `Path`, an invalid one becomes an [`ApiError`].
pub(crate) struct ModelPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for ModelPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = Path::from_request_parts(parts, state).await;
        let Path(names) = read.map_err(|error| ApiError::Path(error.body_text()))?;
        Ok(Self(names))
    }
}

/// Fails unless the path names the served model. Names are compared, and never used as file paths.
pub(crate) fn expect_model(
    state: &ServerState,
    model: &str,
    version: Option<&str>,
) -> Result<(), ApiError> {
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

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde::Deserialize;
use utoipa::openapi::{
    ObjectBuilder, Required, Type,
    path::{Operation, ParameterBuilder, ParameterIn},
};
use utoipa_axum::router::UtoipaMethodRouter;

use crate::{api::error::ApiError, state::ServerState};

/// The names of the tensors of every model for texts.
pub(crate) const TEXT: &str = "text";
pub(crate) const TRUNCATED: &str = "truncated";

/// The parameters of a path.
#[derive(Deserialize)]
struct ModelPath {
    model: String,
    version: Option<String>,
}

/// Extracted if the path names the served model, and its version if it names one. Names are compared, and never used
/// as file paths.
pub(crate) struct ServedModel;

impl FromRequestParts<Arc<ServerState>> for ServedModel {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ServerState>,
    ) -> Result<Self, ApiError> {
        let read = Path::from_request_parts(parts, state).await;
        let Path(ModelPath { model, version }) =
            read.map_err(|error| ApiError::Path(error.body_text()))?;
        let same_version = version.as_ref().is_none_or(|it| *it == state.model_version);
        if model == state.model_name && same_version {
            return Ok(Self);
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
}

/// Adds the route of a model below `/versions/{version}` to its route: one handler answers both.
pub(crate) fn with_version<S>(
    (schemas, mut paths, methods): UtoipaMethodRouter<S>,
) -> UtoipaMethodRouter<S> {
    let version = ParameterBuilder::new()
        .name("version")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The model's version"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    let describe = |operation: &mut Operation| {
        let with = |text: &mut Option<String>, end| *text = text.take().map(|text| text + end);
        with(&mut operation.operation_id, "_version");
        with(&mut operation.summary, ", of this version");
        let parameters = operation.parameters.get_or_insert_default();
        parameters.push(version.clone().into());
    };
    let of_version: Vec<_> = paths
        .paths
        .iter()
        .map(|(path, item)| {
            let mut item = item.clone();
            [&mut item.get, &mut item.post]
                .into_iter()
                .flatten()
                .for_each(describe);
            (
                path.replacen("{model}", "{model}/versions/{version}", 1),
                item,
            )
        })
        .collect();
    paths.paths.extend(of_version);
    (schemas, paths, methods)
}

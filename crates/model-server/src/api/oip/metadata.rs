use std::{iter, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        error::{ApiError, CommonErrors, ErrorBody, ModelPathErrors},
        oip::{
            model_path::{ServedModel, TEXT},
            response::task_outputs,
            tensor_data::BYTES,
            types::ResponseTensor,
        },
        submit::serving,
    },
    backend::tensor::{Signature, TensorSpec},
    state::ServerState,
    task::ModelTask,
};

/// The server's name and version.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    /// Always `model-server`.
    name: &'static str,
    /// The version of the server, not of the model.
    version: &'static str,
    /// Supported extensions of the protocol.
    extensions: [&'static str; 1],
}

/// The inputs and outputs of a model.
#[derive(Serialize, ToSchema)]
struct ModelMetadata {
    /// The name of the model.
    name: String,
    /// The served versions: one.
    versions: [String; 1],
    /// The engine and the file format.
    platform: String,
    /// The inputs. A model that reads texts takes either `text` or all others.
    inputs: Vec<TensorMetadata>,
    /// The outputs: for `text`, those of the task, such as `label`, `confidence`, and `logits`, and `truncated`;
    /// for tensors, those of the graph.
    outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Serialize, ToSchema)]
struct TensorMetadata {
    name: String,
    /// `BYTES`, `BOOL`, `FP32`, `INT64`, and so on.
    datatype: &'static str,
    /// The length of each dimension; -1 if it depends on the request.
    shape: Vec<i64>,
}

/// Whether the process is alive.
#[derive(Serialize, ToSchema)]
struct ServerLive {
    live: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Whether the server is ready.
#[derive(Serialize, ToSchema)]
struct ServerReady {
    ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Whether a model is ready.
#[derive(Serialize, ToSchema)]
struct ModelReady {
    /// The name of the model.
    name: String,
    /// Always true; otherwise the response is an error.
    ready: bool,
}

/// `GET /v2`
#[utoipa::path(
    get,
    path = "/v2",
    operation_id = "v2_server",
    tag = "open inference protocol",
    summary = "Server metadata",
    responses(
        (status = 200, description = "Its name, version, and extensions", body = ServerMetadata),
        CommonErrors,
    )
)]
pub(crate) async fn server() -> Response {
    Json(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data"],
    })
    .into_response()
}

/// `GET /v2/health/live`
#[utoipa::path(
    get,
    path = "/v2/health/live",
    operation_id = "v2_live",
    tag = "open inference protocol",
    summary = "Whether the process is alive",
    responses(
        (status = 200, description = "Live", body = ServerLive),
        (status = 503, description = "A restart is needed", body = ServerLive),
        CommonErrors,
    )
)]
pub(crate) async fn live(State(state): State<Arc<ServerState>>) -> Response {
    let reason = state.dead_reason(Instant::now());
    let live = reason.is_none();
    (health_status(live), Json(ServerLive { live, reason })).into_response()
}

/// `GET /v2/health/ready`
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    operation_id = "v2_ready",
    tag = "open inference protocol",
    summary = "Whether the server is ready",
    responses(
        (status = 200, description = "It is ready", body = ServerReady),
        (status = 503, description = "It is loading, draining, or broken", body = ServerReady),
        CommonErrors,
    )
)]
pub(crate) async fn ready(State(state): State<Arc<ServerState>>) -> Response {
    let reason = state.unhealthy_reason(Instant::now());
    let ready = reason.is_none();
    (health_status(ready), Json(ServerReady { ready, reason })).into_response()
}

fn health_status(is_healthy: bool) -> StatusCode {
    if is_healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// `GET /v2/models/{model}`, also of a version
#[utoipa::path(
    get,
    path = "/v2/models/{model}",
    tag = "open inference protocol",
    summary = "Model metadata",
    params(("model" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "Its inputs and outputs", body = ModelMetadata),
        ModelPathErrors,
        (status = 503, description = "It is loading", body = ErrorBody),
        CommonErrors,
    )
)]
pub(crate) async fn model(
    State(state): State<Arc<ServerState>>,
    _: ServedModel,
) -> Result<Response, ApiError> {
    let serving = serving(&state)?;
    let Signature { inputs, outputs } = &serving.signature;
    let mut metadata = ModelMetadata {
        name: state.model_name.clone(),
        versions: [state.model_version.clone()],
        platform: format!("{}_onnx", state.engine.name()),
        inputs: inputs.iter().map(described).collect(),
        outputs: outputs.iter().map(described).collect(),
    };
    if let ModelTask::Text(model) = &serving.pool.task {
        let text = TensorMetadata {
            name: TEXT.to_owned(),
            datatype: BYTES,
            shape: vec![-1],
        };
        metadata.inputs.insert(0, text);
        let outputs = task_outputs(model, &[], Vec::new());
        let outputs = outputs.map_err(|error| ApiError::Internal(error.to_string()))?;
        // The graph's own output may be the same under the same name, such as the logits.
        let same = |output: &TensorMetadata| outputs.iter().any(|it| it.name == output.name);
        metadata.outputs.retain(|output| !same(output));
        metadata
            .outputs
            .splice(0..0, outputs.iter().map(described_for_texts));
    }
    Ok(Json(metadata).into_response())
}

/// `GET /v2/models/{model}/ready`, also of a version
#[utoipa::path(
    get,
    path = "/v2/models/{model}/ready",
    tag = "open inference protocol",
    summary = "Whether the model is ready",
    params(("model" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "Ready", body = ModelReady),
        ModelPathErrors,
        (status = 503, description = "It is loading, draining, or broken", body = ErrorBody),
        CommonErrors,
    )
)]
pub(crate) async fn model_ready(
    State(state): State<Arc<ServerState>>,
    _: ServedModel,
) -> Result<Response, ApiError> {
    match state.unhealthy_reason(Instant::now()) {
        Some(reason) => Err(ApiError::Unavailable(reason)),
        None => Ok(Json(ModelReady {
            name: state.model_name.clone(),
            ready: true,
        })
        .into_response()),
    }
}

/// Describes an output for texts: its first dimension is their number.
fn described_for_texts(tensor: &ResponseTensor) -> TensorMetadata {
    let lengths = tensor.shape.iter().skip(1);
    let lengths = lengths.map(|it| i64::try_from(*it).unwrap_or(-1));
    TensorMetadata {
        name: tensor.name.clone(),
        datatype: tensor.data.kind().name(),
        shape: iter::once(-1).chain(lengths).collect(),
    }
}

fn described(spec: &TensorSpec) -> TensorMetadata {
    let length = |it: &Option<usize>| it.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1);
    TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name(),
        shape: spec.shape.iter().map(length).collect(),
    }
}

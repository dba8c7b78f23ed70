use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};

use crate::{
    api::{
        body,
        deadline::Deadline,
        error::{
            ApiError, BodyErrors, CommonErrors, InferenceErrors, ModelPathErrors, ResponseDetails,
        },
        json::expect_json_or_binary,
        oip::{
            model_path::{ServedModel, TEXT},
            request::{TokenLimit, decode, split, tensors, texts},
            response::{encode, tensor_outputs, text_outputs},
            types::{BinaryTensors, InferRequest, InferResponse},
        },
        submit::{serving, submit, submit_all},
    },
    scheduler::job::JobInput,
    state::ServerState,
    task::ModelTask,
};

/// `POST /v2/models/{model}/infer`, also of a version
#[utoipa::path(
    post,
    path = "/v2/models/{model}/infer",
    tag = "open inference protocol",
    summary = "Run the model",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("x-request-timeout-ms" = Option<u64>, Header, description = "The client's timeout in milliseconds; the server's own limit if that is shorter"),
        ("inference-header-content-length" = Option<u64>, Header, description = "The length of the JSON, if binary data follows it"),
        ("content-encoding" = Option<String>, Header, description = "`gzip` or `deflate`, if the body is compressed; `inference-header-content-length` counts decompressed bytes"),
    ),
    request_body(content(
        (InferRequest = "application/json"),
        (inline(BinaryTensors) = "application/octet-stream"),
    )),
    responses(
        (
            status = 200,
            description = "The outputs, with binary data after the JSON if requested",
            content(
                (InferResponse = "application/json"),
                (inline(BinaryTensors) = "application/octet-stream"),
            ),
            headers(("inference-header-content-length" = u64, description = "The length of the JSON, if binary data follows it")),
        ),
        ModelPathErrors,
        BodyErrors,
        InferenceErrors,
        CommonErrors,
    )
)]
pub(crate) async fn infer(
    State(state): State<Arc<ServerState>>,
    served: Result<ServedModel, ApiError>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let checked = served
        .and_then(|_| expect_json_or_binary(request.headers()))
        .and_then(|()| Deadline::of(&state, request.headers()));
    let deadline = match checked {
        Ok(deadline) => deadline,
        Err(error) => return Err(body::refuse(&state, request, error).await),
    };
    let (body, reservation) = body::read(&state, &mut request, deadline).await?;
    let (json, binary) = split(request.headers(), &body)?;
    let request: InferRequest = serde_json::from_slice(json).map_err(ApiError::Protocol)?;
    let inputs = decode(&request.inputs, binary)?;
    // The body may be a slice of the connection's larger buffer.
    drop(body);
    let serving = serving(&state)?;
    let (outputs, times) = match (&serving.pool.task, inputs.as_slice()) {
        (ModelTask::Text(model), [(TEXT, shape, data)]) => {
            let texts = texts(shape, data, state.limits.max_texts())?;
            let job_inputs = texts.into_iter().map(JobInput::Text).collect();
            let completions =
                submit_all(&state, job_inputs, reservation.as_ref(), deadline).await?;
            text_outputs(model, completions, deadline)?
        }
        (task, _) => {
            let limit = match task {
                ModelTask::Text(model) => Some(TokenLimit {
                    length: model.tokenizer.limit(),
                    elements: serving.pool.max_tokens.max(model.tokenizer.limit()),
                }),
                ModelTask::Tensors => None,
            };
            let tensors = tensors(&serving.signature, inputs, limit)?;
            let completion =
                submit(&state, JobInput::Tensors(tensors), reservation, deadline).await?;
            tensor_outputs(&serving.signature, completion, deadline)?
        }
    };
    let mut response = encode(&state, request, outputs)?;
    response.extensions_mut().insert(ResponseDetails {
        times: Some(times),
        ..ResponseDetails::default()
    });
    Ok(response)
}

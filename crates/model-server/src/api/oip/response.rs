use std::iter;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde_json::Value;

use crate::{
    api::{
        deadline::Deadline,
        error::ApiError,
        oip::{
            model_path::{TEXT, TRUNCATED},
            request::{JSON_LENGTH, wrong},
            tensor_data::TensorData,
            types::{
                BinarySize, InferRequest, InferResponse, Parameters, RequestOutput, ResponseOutput,
                ResponseTensor,
            },
        },
    },
    backend::tensor::{Elements, Signature},
    scheduler::{
        job::{Completion, InferenceError, InferenceOutput},
        stage_times::StageTimes,
    },
    state::ServerState,
    task::{
        text_model::TextModel,
        text_task::{TextOutput, TextValues, UnexpectedOutput},
    },
};

/// Returns the outputs for texts. If one text fails, the request fails: the protocol has no way to report an
/// error among the outputs.
pub(crate) fn text_outputs(
    model: &TextModel,
    completions: Vec<Completion>,
    deadline: Deadline,
) -> Result<(Vec<ResponseTensor>, StageTimes), ApiError> {
    let count = completions.len();
    let mut times = StageTimes::default();
    let mut rows = Vec::with_capacity(count);
    let mut truncations = Vec::with_capacity(count);
    for completion in completions {
        times = times.longest(completion.times);
        match completion.result.map_err(|error| failed(error, deadline))? {
            InferenceOutput::Text { row, truncated, .. } => {
                rows.push(row);
                truncations.push(truncated);
            }
            InferenceOutput::Tensors(_) => {
                return Err(ApiError::Internal("a text became tensors".to_owned()));
            }
        }
    }
    let outputs = task_outputs(model, &rows, truncations);
    let outputs = outputs.map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok((outputs, times))
}

/// Returns the outputs of a model for texts: those of its task, and whether each text was truncated.
pub(crate) fn task_outputs(
    model: &TextModel,
    rows: &[Vec<f32>],
    truncations: Vec<bool>,
) -> Result<Vec<ResponseTensor>, UnexpectedOutput> {
    let texts = rows.len();
    let tensor = |output: TextOutput| ResponseTensor {
        name: output.name.to_owned(),
        shape: iter::once(texts).chain(output.columns).collect(),
        data: match output.values {
            TextValues::Strings(strings) => {
                TensorData::Bytes(strings.into_iter().map(String::into_bytes).collect())
            }
            TextValues::Numbers(numbers) => TensorData::Numbers(Elements::Fp32(numbers)),
        },
    };
    let outputs = model.task.outputs(rows)?.into_iter().map(tensor);
    let truncated = ResponseTensor {
        name: TRUNCATED.to_owned(),
        shape: vec![texts],
        data: TensorData::Numbers(Elements::Bool(truncations)),
    };
    Ok(outputs.chain(iter::once(truncated)).collect())
}

pub(crate) fn tensor_outputs(
    signature: &Signature,
    completion: Completion,
    deadline: Deadline,
) -> Result<(Vec<ResponseTensor>, StageTimes), ApiError> {
    let outputs = match completion.result {
        Ok(InferenceOutput::Tensors(outputs)) => outputs,
        Ok(InferenceOutput::Text { .. }) => {
            return Err(ApiError::Internal("tensors became a text".to_owned()));
        }
        // The engine has passed its self-test since, so the tensors of the client are to blame: a value out of
        // range, or lengths that do not match.
        Err(error @ (InferenceError::Engine(_) | InferenceError::Panicked(_))) => {
            return Err(wrong(
                "inputs",
                format!("the model rejects these tensors: {error}"),
            ));
        }
        Err(error) => return Err(failed(error, deadline)),
    };
    let named = signature.outputs.iter().zip(outputs);
    let outputs = named.map(|(spec, tensor)| ResponseTensor {
        name: spec.name.clone(),
        shape: tensor.shape,
        data: TensorData::Numbers(tensor.elements),
    });
    Ok((outputs.collect(), completion.times))
}

pub(crate) fn failed(error: InferenceError, deadline: Deadline) -> ApiError {
    match error {
        InferenceError::Text(_) => wrong("inputs", format!("input {TEXT:?}: {error}")),
        InferenceError::Expired => ApiError::Timeout(deadline.after()),
        other => ApiError::Internal(other.to_string()),
    }
}

/// Selects the wanted outputs. Returns for each whether it is sent as binary data.
fn select_outputs(
    parameters: Option<&Parameters>,
    wanted: Option<Vec<RequestOutput>>,
    mut outputs: Vec<ResponseTensor>,
) -> Result<Vec<(ResponseTensor, bool)>, ApiError> {
    let is_true = |parameters: Option<&Parameters>, name: &str| {
        parameters
            .and_then(|it| it.get(name))
            .and_then(Value::as_bool)
    };
    let all_binary = is_true(parameters, "binary_data_output").unwrap_or(false);
    let Some(wanted) = wanted else {
        let all = outputs.into_iter().map(|output| (output, all_binary));
        return Ok(all.collect());
    };
    let mut selected = Vec::with_capacity(wanted.len());
    for RequestOutput { name, parameters } in wanted {
        let Some(index) = outputs.iter().position(|output| output.name == name) else {
            let names: Vec<&str> = outputs.iter().map(|it| it.name.as_str()).collect();
            let problem = format!(
                "output {name:?} is unknown or requested twice; available are {}",
                names.join(", ")
            );
            return Err(wrong("outputs", problem));
        };
        let binary = is_true(parameters.as_ref(), "binary_data").unwrap_or(all_binary);
        selected.push((outputs.swap_remove(index), binary));
    }
    Ok(selected)
}

/// Writes a response as JSON, with binary data after it if the request asks for it.
pub(crate) fn encode(
    state: &ServerState,
    request: InferRequest,
    outputs: Vec<ResponseTensor>,
) -> Result<Response, ApiError> {
    let wanted = select_outputs(request.parameters.as_ref(), request.outputs, outputs)?;
    let mut raw = Vec::new();
    let mut response = InferResponse {
        model_name: state.model_name.clone(),
        model_version: state.model_version.clone(),
        id: request.id,
        outputs: Vec::with_capacity(wanted.len()),
    };
    for (ResponseTensor { name, shape, data }, binary) in wanted {
        if !binary && !data.fits_json() {
            // Logits of texts were checked before, so this can only be the client's own tensors.
            let problem = format!(
                "output {name:?} holds NaN or infinity for these tensors, which JSON cannot represent; request it as binary data"
            );
            return Err(wrong("inputs", problem));
        }
        let datatype = data.kind().name();
        let parameters = binary.then(|| {
            let bytes = data.to_bytes();
            raw.extend(&bytes);
            BinarySize {
                binary_data_size: bytes.len(),
            }
        });
        response.outputs.push(ResponseOutput {
            name,
            datatype,
            shape,
            data: parameters.is_none().then_some(data),
            parameters,
        });
    }
    let json =
        serde_json::to_vec(&response).map_err(|error| ApiError::Internal(error.to_string()))?;
    let any_binary = response
        .outputs
        .iter()
        .any(|output| output.parameters.is_some());
    Ok(if any_binary {
        let length = HeaderValue::from(json.len());
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            ),
            (JSON_LENGTH, length),
        ];
        (headers, [json, raw].concat()).into_response()
    } else {
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind)], json).into_response()
    })
}

use std::{fmt::Display, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    super::{
        ask::{Deadline, ask, ask_all, serving},
        body,
        error::{ApiError, BadBody, BadName, Details, InferenceFailures, Refusals},
    },
    CONFIDENCE, LABEL, LOGITS, Names, TEXT, TRUNCATED,
    data::{Data, Kind, cast},
    expect_model,
};
use crate::{
    batch::{Answer, InferenceError, Outcome, StageTimes, Work},
    engine::{Elements, Signature, Tensor, TensorSpec},
    model::{Task, TextModel},
    state::ServerState,
    text::largest,
};

/// How many bytes of a body are JSON, where raw tensors follow it.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How much tensors for a model of texts may hold, as texts themselves may: more at once would take
/// gigabytes in a single forward pass.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// The most tokens of one text.
    length: usize,
    /// The most tokens of all texts, padding included.
    elements: usize,
}

/// What to take through the model.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"]}],
}))]
pub(super) struct InferRequest {
    /// Comes back in the answer.
    id: Option<String>,
    /// `binary_data_output`: all outputs as raw bytes. Others are ignored.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Map<String, Value>,
    /// The tensors; see the model's metadata for what it takes.
    inputs: Vec<RequestInput>,
    /// Which outputs are wanted, and how; all of them without it.
    outputs: Option<Vec<RequestOutput>>,
}

/// A tensor of a request.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RequestInput {
    name: String,
    /// The length of each dimension.
    shape: Vec<u64>,
    /// `BYTES`, `BOOL`, `FP32`, `INT64` and so on.
    datatype: String,
    /// `binary_data_size`: as many bytes behind the JSON hold the data.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Map<String, Value>,
    /// The elements, row by row, in one array or in one per dimension.
    #[schema(value_type = Option<Vec<Value>>)]
    data: Option<Value>,
}

/// An output that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RequestOutput {
    name: String,
    /// `binary_data`: as raw bytes behind the JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Map<String, Value>,
}

/// What the model gave.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InferResponse {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<ResponseOutput>,
}

/// A tensor of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResponseOutput {
    name: String,
    /// `BYTES`, `BOOL`, `FP32`, `INT64` and so on.
    datatype: &'static str,
    /// The length of each dimension.
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    /// The elements, row by row, unless they follow as raw bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    data: Option<Data>,
}

/// Where the elements of an output are, if not here.
#[derive(Debug, Serialize, ToSchema)]
struct BinarySize {
    /// As many bytes behind the JSON, after those of the outputs before.
    binary_data_size: usize,
}

/// An output before it is written down.
struct Output {
    name: String,
    shape: Vec<usize>,
    data: Data,
}

/// `POST /v2/models/{model}/infer`
#[utoipa::path(
    post,
    path = "/v2/models/{model}/infer",
    tag = "open inference protocol",
    summary = "Run the model",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("content-encoding" = Option<String>, Header, description = "`gzip` or `deflate`, if the body is compressed; `inference-header-content-length` counts what it is decompressed"),
    ),
    request_body(content(
        (InferRequest = "application/json"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The outputs; with raw bytes behind the JSON where they were asked for", content(
            (InferResponse = "application/json"),
            (Vec<u8> = "application/octet-stream"),
        )),
        BadName,
        BadBody,
        InferenceFailures,
        Refusals,
    )
)]
pub(super) async fn infer(
    State(state): State<Arc<ServerState>>,
    names: Result<Names<String>, ApiError>,
    request: Request,
) -> Result<Response, ApiError> {
    let known = names.and_then(|Names(model)| expect_model(&state, &model, None));
    run(&state, known, request).await
}

/// `POST /v2/models/{model}/versions/{version}/infer`
#[utoipa::path(
    post,
    path = "/v2/models/{model}/versions/{version}/infer",
    tag = "open inference protocol",
    summary = "Run this version of the model",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The model's version"),
        ("content-encoding" = Option<String>, Header, description = "`gzip` or `deflate`, if the body is compressed; `inference-header-content-length` counts what it is decompressed"),
    ),
    request_body(content(
        (InferRequest = "application/json"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The outputs; with raw bytes behind the JSON where they were asked for", content(
            (InferResponse = "application/json"),
            (Vec<u8> = "application/octet-stream"),
        )),
        BadName,
        BadBody,
        InferenceFailures,
        Refusals,
    )
)]
pub(super) async fn infer_version(
    State(state): State<Arc<ServerState>>,
    names: Result<Names<(String, String)>, ApiError>,
    request: Request,
) -> Result<Response, ApiError> {
    let known =
        names.and_then(|Names((model, version))| expect_model(&state, &model, Some(&version)));
    run(&state, known, request).await
}

async fn run(
    state: &Arc<ServerState>,
    known: Result<(), ApiError>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let checked = known
        .and_then(|()| expect_content_type(request.headers()))
        .and_then(|()| Deadline::of(state, request.headers()));
    let deadline = match checked {
        Ok(deadline) => deadline,
        Err(error) => return Err(body::refuse(state, request, error).await),
    };
    let (body, room) = body::read(state, &mut request, deadline).await?;
    let (json, binary) = split(request.headers(), &body)?;
    let request: InferRequest = serde_json::from_slice(json).map_err(ApiError::Protocol)?;
    let inputs = decode(&request.inputs, binary)?;
    // It may be a part of the connection's buffer, which is larger.
    drop(body);
    let serving = serving(state)?;
    let (outputs, times) = match (&serving.shop.task, inputs.as_slice()) {
        (Task::Text(model), [(TEXT, shape, data)]) => {
            let texts = texts(shape, data, state.max_texts)?;
            let work = texts.into_iter().map(Work::Text).collect();
            let answers = ask_all(state, work, room.as_ref(), deadline).await?;
            of_texts(model, answers, deadline)?
        }
        (task, _) => {
            let limit = match task {
                Task::Text(model) => Some(Limit {
                    length: model.tokenizer.limit(),
                    elements: serving.shop.most_tokens.max(model.tokenizer.limit()),
                }),
                Task::Tensors => None,
            };
            let tensors = tensors(&serving.signature, inputs, limit)?;
            let answer = ask(state, Work::Tensors(tensors), room, deadline).await?;
            of_tensors(&serving.signature, answer, deadline)?
        }
    };
    let mut response = encode(state, request, outputs)?;
    response.extensions_mut().insert(Details {
        times: Some(times),
        ..Details::default()
    });
    Ok(response)
}

fn expect_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/octet-stream" => Ok(()),
        _ => Err(ApiError::ContentType(essence)),
    }
}

fn wrong(field: &'static str, problem: impl Display) -> ApiError {
    ApiError::Field {
        field,
        problem: problem.to_string(),
    }
}

/// The JSON of a body, and the raw bytes behind it.
fn split<'a>(headers: &HeaderMap, body: &'a Bytes) -> Result<(&'a [u8], &'a [u8]), ApiError> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok((body, &[]));
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    length
        .and_then(|length| body.split_at_checked(length))
        .ok_or_else(|| {
            wrong(
                "inference-header-content-length",
                format!(
                    "Inference-Header-Content-Length is {value:?}; expected the length of the JSON, at most the {} bytes of the body",
                    body.len()
                ),
            )
        })
}

/// A tensor of a request: its name, its shape, and what it holds.
type Input<'a> = (&'a str, Vec<usize>, Data);

fn decode<'a>(inputs: &'a [RequestInput], mut binary: &[u8]) -> Result<Vec<Input<'a>>, ApiError> {
    let mut decoded: Vec<Input<'a>> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = input.name.as_str();
        let refused = |problem: String| wrong("inputs", format!("input {name:?}: {problem}"));
        if decoded.iter().any(|(other, ..)| *other == name) {
            return Err(refused("it is there twice".to_owned()));
        }
        let kind = Kind::named(&input.datatype).map_err(refused)?;
        let data = match (binary_size(&input.parameters), &input.data) {
            (Err(problem), _) => return Err(refused(problem)),
            (Ok(Some(size)), None) => {
                let (bytes, rest) = binary.split_at_checked(size).ok_or_else(|| {
                    refused(format!(
                        "binary_data_size is {size}; the body holds {} bytes more",
                        binary.len()
                    ))
                })?;
                binary = rest;
                Data::from_bytes(kind, bytes).map_err(refused)?
            }
            (Ok(None), Some(data)) => Data::from_json(kind, data).map_err(refused)?,
            (Ok(Some(_)), Some(_)) | (Ok(None), None) => {
                return Err(refused(
                    "expected either data or binary_data_size".to_owned(),
                ));
            }
        };
        let shape = shape(&input.shape, data.len()).map_err(refused)?;
        decoded.push((name, shape, data));
    }
    if binary.is_empty() {
        Ok(decoded)
    } else {
        let problem = format!("the body holds {} bytes that no input takes", binary.len());
        Err(wrong("inputs", problem))
    }
}

fn binary_size(parameters: &Map<String, Value>) -> Result<Option<usize>, String> {
    let Some(value) = parameters.get("binary_data_size") else {
        return Ok(None);
    };
    let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
    size.map(Some)
        .ok_or_else(|| format!("binary_data_size is {value}; expected a number of bytes"))
}

/// A shape of `count` elements.
fn shape(lengths: &[u64], count: usize) -> Result<Vec<usize>, String> {
    let lengths_of: Option<Vec<usize>> =
        lengths.iter().map(|it| usize::try_from(*it).ok()).collect();
    let product = |shape: &Vec<usize>| {
        shape
            .iter()
            .try_fold(1_usize, |all, it| all.checked_mul(*it))
    };
    lengths_of
        .filter(|shape| product(shape) == Some(count))
        .ok_or_else(|| {
            format!("the shape {lengths:?} does not hold the {count} elements of the data")
        })
}

/// The texts of the input of that name.
fn texts(shape: &[usize], data: &Data, most: usize) -> Result<Vec<String>, ApiError> {
    let refused = |problem: String| wrong("inputs", format!("input {TEXT:?}: {problem}"));
    let Data::Bytes(strings) = data else {
        return Err(refused(format!(
            "datatype is {}; expected BYTES",
            data.kind().name()
        )));
    };
    if !matches!(shape, [_] | [_, 1]) {
        return Err(refused(format!(
            "shape is {shape:?}; expected [n] or [n, 1]"
        )));
    }
    if strings.is_empty() || strings.len() > most {
        return Err(refused(format!(
            "it holds {} texts; expected 1 to {most}",
            strings.len()
        )));
    }
    let text = |(place, string): (usize, &Vec<u8>)| {
        let text = std::str::from_utf8(string)
            .map_err(|error| refused(format!("element {place} is no UTF-8: {error}")))?;
        if text.trim().is_empty() {
            return Err(refused(format!(
                "element {place} is blank; expected some words"
            )));
        }
        Ok(text.to_owned())
    };
    strings.iter().enumerate().map(text).collect()
}

/// All inputs of the graph, in its order.
fn tensors(
    signature: &Signature,
    mut inputs: Vec<Input<'_>>,
    limit: Option<Limit>,
) -> Result<Vec<Tensor>, ApiError> {
    let names = || {
        let names = signature.inputs.iter().map(|input| input.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let mut tensors = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let place = inputs.iter().position(|(name, ..)| *name == spec.name);
        let Some(place) = place else {
            let problem = format!(
                "input {:?} is missing; the model takes {}",
                spec.name,
                names()
            );
            return Err(wrong("inputs", problem));
        };
        let (name, shape, data) = inputs.swap_remove(place);
        let tensor = tensor(spec, shape, data, limit);
        tensors.push(tensor.map_err(|it| wrong("inputs", format!("input {name:?}: {it}")))?);
    }
    match inputs.first() {
        None => Ok(tensors),
        Some((name, ..)) => {
            let problem = format!("input {name:?} is unknown; the model takes {}", names());
            Err(wrong("inputs", problem))
        }
    }
}

fn tensor(
    spec: &TensorSpec,
    shape: Vec<usize>,
    data: Data,
    limit: Option<Limit>,
) -> Result<Tensor, String> {
    if !spec.admits(&shape) {
        let length = |it: &Option<usize>| it.map_or("-1".to_owned(), |it| it.to_string());
        let expected: Vec<String> = spec.shape.iter().map(length).collect();
        return Err(format!(
            "shape is {shape:?}; expected [{}], where -1 stands for any length",
            expected.join(", ")
        ));
    }
    if let Some(Limit { length, elements }) = limit {
        let longest = shape.last().copied().unwrap_or(1);
        if longest > length || data.len() > elements {
            return Err(format!(
                "shape is {shape:?}; this model takes {length} tokens a text and {elements} in one request"
            ));
        }
    }
    let given = data.kind().name();
    let refused = || {
        format!(
            "datatype is {given}; expected {}, or whole numbers that fit it",
            spec.datatype
        )
    };
    let Data::Numbers(elements) = data else {
        return Err(refused());
    };
    let elements = cast(elements, spec.datatype).ok_or_else(refused)?;
    Ok(Tensor { shape, elements })
}

/// The outputs for texts. One text that got no answer fails the request: the protocol has no place
/// for an error among outputs.
fn of_texts(
    model: &TextModel,
    answers: Vec<Answer>,
    deadline: Deadline,
) -> Result<(Vec<Output>, StageTimes), ApiError> {
    let count = answers.len();
    let mut times = StageTimes::default();
    let (mut labels, mut confidences, mut all_logits) = (Vec::new(), Vec::new(), Vec::new());
    let mut cut = Vec::with_capacity(count);
    for answer in answers {
        times = times.longest(answer.times);
        let logits = match answer.outcome.map_err(|error| failed(error, deadline))? {
            Outcome::Text {
                logits, truncated, ..
            } => {
                cut.push(truncated);
                logits
            }
            Outcome::Tensors(_) => {
                return Err(ApiError::Internal("a text became tensors".to_owned()));
            }
        };
        let probabilities = model.problem.probabilities(&logits);
        let probabilities = probabilities.map_err(|error| ApiError::Internal(error.to_string()))?;
        let best = largest(&logits);
        labels.push(
            model
                .labels
                .get(best)
                .unwrap_or_default()
                .as_bytes()
                .to_vec(),
        );
        confidences.push(probabilities[best]);
        all_logits.extend(logits);
    }
    let output = |name: &str, shape, data| Output {
        name: name.to_owned(),
        shape,
        data,
    };
    let outputs = vec![
        output(LABEL, vec![count], Data::Bytes(labels)),
        output(
            CONFIDENCE,
            vec![count],
            Data::Numbers(Elements::Fp32(confidences)),
        ),
        output(
            LOGITS,
            vec![count, model.labels.len()],
            Data::Numbers(Elements::Fp32(all_logits)),
        ),
        output(TRUNCATED, vec![count], Data::Numbers(Elements::Bool(cut))),
    ];
    Ok((outputs, times))
}

fn of_tensors(
    signature: &Signature,
    answer: Answer,
    deadline: Deadline,
) -> Result<(Vec<Output>, StageTimes), ApiError> {
    let outputs = match answer.outcome {
        Ok(Outcome::Tensors(outputs)) => outputs,
        Ok(Outcome::Text { .. }) => {
            return Err(ApiError::Internal("tensors became a text".to_owned()));
        }
        // The client chose the numbers: out of range, or of lengths that do not go together. The
        // engine has shown since that it is not to blame.
        Err(error @ (InferenceError::Engine(_) | InferenceError::Panicked(_))) => {
            return Err(wrong(
                "inputs",
                format!("the model cannot take these tensors: {error}"),
            ));
        }
        Err(error) => return Err(failed(error, deadline)),
    };
    let named = signature.outputs.iter().zip(outputs);
    let outputs = named.map(|(spec, tensor)| Output {
        name: spec.name.clone(),
        shape: tensor.shape,
        data: Data::Numbers(tensor.elements),
    });
    Ok((outputs.collect(), answer.times))
}

fn failed(error: InferenceError, deadline: Deadline) -> ApiError {
    match error {
        InferenceError::Text(_) => wrong("inputs", format!("input {TEXT:?}: {error}")),
        InferenceError::TooLate => ApiError::Timeout(deadline.after()),
        other => ApiError::Internal(other.to_string()),
    }
}

fn encode(
    state: &ServerState,
    request: InferRequest,
    mut outputs: Vec<Output>,
) -> Result<Response, ApiError> {
    let is_true =
        |parameters: &Map<String, Value>, name: &str| parameters.get(name).and_then(Value::as_bool);
    let all_binary = is_true(&request.parameters, "binary_data_output").unwrap_or(false);
    let wanted: Vec<(Output, bool)> = match request.outputs {
        None => outputs
            .into_iter()
            .map(|output| (output, all_binary))
            .collect(),
        Some(wanted) => {
            let mut chosen = Vec::with_capacity(wanted.len());
            for RequestOutput { name, parameters } in wanted {
                let Some(place) = outputs.iter().position(|output| output.name == name) else {
                    let names: Vec<&str> = outputs.iter().map(|it| it.name.as_str()).collect();
                    let problem = format!(
                        "output {name:?} is unknown, or there twice; left are {}",
                        names.join(", ")
                    );
                    return Err(wrong("outputs", problem));
                };
                let binary = is_true(&parameters, "binary_data").unwrap_or(all_binary);
                chosen.push((outputs.swap_remove(place), binary));
            }
            chosen
        }
    };
    let mut raw = Vec::new();
    let mut response = InferResponse {
        model_name: state.model_name.clone(),
        model_version: state.model_version.clone(),
        id: request.id,
        outputs: Vec::with_capacity(wanted.len()),
    };
    for (Output { name, shape, data }, binary) in wanted {
        if !binary && !data.fits_json() {
            // Scores of texts were looked at before: only a client's own tensors lead here.
            let problem = format!(
                "for these tensors output {name:?} holds floats that are no finite numbers, which JSON cannot express; ask for it as binary data"
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

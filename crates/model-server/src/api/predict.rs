use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::{
        body,
        deadline::Deadline,
        error::{ApiError, ResponseDetails},
        json::expect_json,
        predict_request::{
            PredictRequest, TEXT, TEXT_PAIR, TEXT_PAIRS, TEXTS, blank_field, parse, wrong,
        },
        submit::{serving, submit, submit_all},
    },
    capture::CopiedText,
    scheduler::{
        job::{Completion, InferenceError, InferenceOutput, JobInput},
        stage_times::StageTimes,
    },
    state::ServerState,
    task::{ModelTask, text_model::TextModel, text_task::Prediction},
    tokenizer::text_tokenizer::TextError,
};

/// The header with the label of a single text, for logs that do not read bodies.
const PREDICTED_LABEL: HeaderName = HeaderName::from_static("x-predicted-label");

/// The answer for one text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PredictedText {
    #[serde(flatten)]
    prediction: Prediction,
    /// Whether the end of the text was truncated, because the model reads no more.
    truncated: bool,
}

/// The response for one text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PredictResponse {
    #[serde(flatten)]
    text: PredictedText,
    /// The release that answered.
    #[schema(example = "v1")]
    model_version: String,
}

/// The response for several texts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResponse {
    /// One for each text, in their order.
    predictions: Vec<BatchItem>,
    /// The release that answered.
    #[schema(example = "v1")]
    model_version: String,
}

/// The result of one of several texts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BatchItem {
    /// The answer.
    Answered(PredictedText),
    /// The text failed; the others did not.
    Failed {
        /// Why it failed.
        error: String,
    },
}

/// `POST /predict` with `{"text": "…"}` or `{"texts": ["…", …]}`: the most likely label of each text.
///
/// Unknown fields are refused, because a client that sends one expects that it does something.
#[utoipa::path(
    post,
    path = "/predict",
    tag = "prediction",
    summary = "Classify one text or several",
    request_body(
        content = PredictRequest,
        examples(
            ("One text" = (value = json!({"text": "a fine film", "top_k": 2}))),
            ("Several texts" = (value = json!({"texts": ["a fine film", "a waste of time"]}))),
            ("A pair" = (value = json!({"text": "A man plays.", "text_pair": "Someone plays."}), description = "For models that classify pairs of texts")),
        ),
    ),
    params(
        ("x-request-timeout-ms" = Option<u64>, Header, description = "The client's timeout in milliseconds; the server's own limit if that is shorter"),
        ("content-encoding" = Option<String>, Header, description = "`gzip` or `deflate`, if the body is compressed"),
    ),
    responses(
        (
            status = 200,
            description = "The most likely label of the text, or of each text",
            body = inline(PredictAnswer),
            headers(("x-predicted-label" = String, description = "The most likely label of one text, for logs that do not read bodies")),
        ),
        super::error::BodyErrors,
        super::error::CommonErrors,
        super::error::InferenceErrors,
        (status = 404, description = "This release takes tensors instead of texts", body = super::error::ErrorBody),
    )
)]
pub(crate) async fn predict(
    State(state): State<Arc<ServerState>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let checked = expect_json(headers).and_then(|()| Deadline::of(&state, headers));
    let deadline = match checked {
        Ok(deadline) => deadline,
        Err(error) => return Err(body::refuse(&state, request, error).await),
    };
    let capture = state.capture_for(headers);
    let (body, reservation) = body::read(&state, &mut request, deadline).await?;
    let request = parse(&body, state.limits.max_texts())?;
    // The body may be a slice of the connection's larger buffer.
    drop(body);
    let ModelTask::Text(model) = &serving(&state)?.pool.task else {
        return Err(ApiError::NoTexts);
    };
    if !model.tokenizer.makes_pairs() {
        refuse_pairs(&request)?;
    }
    let model_version = state.model_version.clone();
    let top_k = request.top_k;
    let (mut response, times) = if let Some(text) = request.text {
        let copy = capture.and_then(|it| it.copy(&text, request.text_pair.as_deref()));
        let input = job_input(text, request.text_pair);
        let completion = submit(&state, input, reservation, deadline).await?;
        let times = completion.times;
        let text = predicted(model, completion, top_k);
        let text = text.map_err(|error| FailedText { error, place: None }.for_request(deadline))?;
        keep(copy, &text);
        (one_text_response(text, model_version), times)
    } else {
        let texts = pairs_of(request.texts.unwrap_or_default(), request.text_pairs);
        let copies: Vec<_> = texts
            .iter()
            .map(|(text, pair)| capture?.copy(text, pair.as_deref()))
            .collect();
        let (inputs, blank) = job_inputs(texts);
        let completions = submit_all(&state, inputs, reservation.as_ref(), deadline).await?;
        let times = completions.iter().map(|completion| completion.times);
        let times = times.fold(StageTimes::default(), StageTimes::longest);
        let predictions = several(model, &blank, completions, top_k, deadline)?;
        for (copy, item) in copies.into_iter().zip(&predictions) {
            if let BatchItem::Answered(text) = item {
                keep(copy, text);
            }
        }
        let body = PredictAnswer::Several(BatchResponse {
            predictions,
            model_version,
        });
        (Json(body).into_response(), times)
    };
    response.extensions_mut().insert(ResponseDetails {
        times: Some(times),
        ..ResponseDetails::default()
    });
    Ok(response)
}

fn refuse_pairs(request: &PredictRequest) -> Result<(), ApiError> {
    let (text, field) = match request {
        PredictRequest {
            text_pair: Some(_), ..
        } => (TEXT, TEXT_PAIR),
        PredictRequest {
            text_pairs: Some(_),
            ..
        } => (TEXTS, TEXT_PAIRS),
        _ => return Ok(()),
    };
    Err(wrong(field, TextError::NoPairs.message(text, field)))
}

fn job_input(text: String, pair: Option<String>) -> JobInput {
    match pair {
        Some(pair) => JobInput::TextPair(text, pair),
        None => JobInput::Text(text),
    }
}

/// Returns each text with its second one, if it has one.
fn pairs_of(texts: Vec<String>, text_pairs: Option<Vec<String>>) -> Vec<(String, Option<String>)> {
    let alone = || vec![None; texts.len()];
    let pairs = text_pairs.map_or_else(alone, |pairs| pairs.into_iter().map(Some).collect());
    texts.into_iter().zip(pairs).collect()
}

/// Returns the inputs, and for each text which of its fields is blank. A blank text has no input.
fn job_inputs(texts: Vec<(String, Option<String>)>) -> (Vec<JobInput>, Vec<Option<&'static str>>) {
    let mut inputs = Vec::with_capacity(texts.len());
    let mut blank = Vec::with_capacity(texts.len());
    for (text, pair) in texts {
        let field = blank_field(&text, pair.as_deref());
        blank.push(field);
        if field.is_none() {
            inputs.push(job_input(text, pair));
        }
    }
    (inputs, blank)
}

/// Returns the response for one text, with its label as a header.
fn one_text_response(text: PredictedText, model_version: String) -> Response {
    // A label that is not a valid header value is left out of the header.
    let label = text.prediction.0.label();
    let label = label.and_then(|label| HeaderValue::from_bytes(label.as_bytes()).ok());
    let body = PredictAnswer::One(PredictResponse {
        text,
        model_version,
    });
    let mut response = Json(body).into_response();
    if let Some(label) = label {
        response.headers_mut().insert(PREDICTED_LABEL, label);
    }
    response
}

/// Offers an answered text to the sample of inputs.
fn keep(copy: Option<CopiedText<'_>>, answered: &PredictedText) {
    if let Some(copy) = copy {
        copy.keep(answered.prediction.0.label());
    }
}

/// The response of `/predict`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum PredictAnswer {
    /// For `text`.
    One(PredictResponse),
    /// For `texts`.
    Several(BatchResponse),
}

/// A text without a prediction.
struct FailedText {
    error: InferenceError,
    /// The index of the text in `texts`; `None` if the request has one text.
    place: Option<usize>,
}

impl FailedText {
    /// Returns the reason, with the fields that the client sent.
    fn problem(&self) -> String {
        match &self.error {
            InferenceError::Text(error) => {
                let [text, pair] = field_names(self.place);
                error.message(&text, &pair)
            }
            other => other.to_string(),
        }
    }

    /// Returns the error for a request in which no text succeeded.
    fn for_request(self, deadline: Deadline) -> ApiError {
        let problem = self.problem();
        match self.error {
            // A tokenizer gives the same error each time, so the text is the cause.
            InferenceError::Text(error) => {
                let [text, pair] = match self.place {
                    None => [TEXT, TEXT_PAIR],
                    Some(_) => [TEXTS, TEXT_PAIRS],
                };
                let is_pair = matches!(error, TextError::PairTooLong);
                wrong(if is_pair { pair } else { text }, problem)
            }
            InferenceError::Expired => ApiError::Timeout(deadline.after()),
            InferenceError::NoTokenizer => ApiError::NoTexts,
            _ => ApiError::Internal(problem),
        }
    }
}

/// Returns the names of a text and of its second text in the request.
fn field_names(place: Option<usize>) -> [String; 2] {
    match place {
        None => [TEXT, TEXT_PAIR].map(str::to_owned),
        Some(place) => [TEXTS, TEXT_PAIRS].map(|field| format!("{field}[{place}]")),
    }
}

/// Returns one item for each text; blank texts did not run. Fails only if no text succeeded.
fn several(
    model: &TextModel,
    blank: &[Option<&'static str>],
    completions: Vec<Completion>,
    top_k: Option<usize>,
    deadline: Deadline,
) -> Result<Vec<BatchItem>, ApiError> {
    let mut items = Vec::with_capacity(blank.len());
    let mut answered = false;
    let mut last = None;
    let mut completions = completions.into_iter();
    for (place, blank) in blank.iter().enumerate() {
        if let Some(field) = blank {
            let [text, pair] = field_names(Some(place));
            let name = if *field == TEXT_PAIR { pair } else { text };
            let error = format!("{name} is blank; expected some words");
            items.push(BatchItem::Failed { error });
            continue;
        }
        let Some(completion) = completions.next() else {
            break;
        };
        items.push(match predicted(model, completion, top_k) {
            Ok(text) => {
                answered = true;
                BatchItem::Answered(text)
            }
            Err(error) => {
                let place = Some(place);
                let failed = FailedText { error, place };
                let error = failed.problem();
                last = Some(failed);
                BatchItem::Failed { error }
            }
        });
    }
    match last {
        Some(failed) if !answered => Err(failed.for_request(deadline)),
        _ => Ok(items),
    }
}

fn predicted(
    model: &TextModel,
    completion: Completion,
    top_k: Option<usize>,
) -> Result<PredictedText, InferenceError> {
    let (row, truncated) = match completion.result? {
        InferenceOutput::Text { row, truncated, .. } => (row, truncated),
        InferenceOutput::Tensors(_) => return Err(InferenceError::NoTokenizer),
    };
    Ok(PredictedText {
        prediction: model.task.answer(&row, top_k)?,
        truncated,
    })
}

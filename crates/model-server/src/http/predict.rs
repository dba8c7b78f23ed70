use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    ask::{Deadline, ask, ask_all, serving},
    body,
    error::{ApiError, Details},
};
use crate::{
    batch::{Answer, InferenceError, Outcome, StageTimes, Work},
    model::{Task, TextModel},
    state::ServerState,
    text::{TextError, descending, largest},
};

/// Tells the label of one text to those who do not read bodies, such as a router's log.
const PREDICTED_LABEL: HeaderName = HeaderName::from_static("x-predicted-label");

/// One text, or several of them.
#[derive(Debug, PartialEq, Deserialize, ToSchema)]
pub(super) struct PredictRequest {
    /// The text to classify; this or `texts`.
    #[schema(example = "a fine film")]
    text: Option<String>,
    /// Several texts to classify; this or `text`.
    texts: Option<Vec<String>>,
    /// How many labels to list with their scores, the likeliest first; none without it.
    #[schema(minimum = 1)]
    top_k: Option<usize>,
}

/// The likeliest label of one text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Prediction {
    /// The label with the highest score.
    #[schema(example = "positive")]
    #[serde(rename = "prediction")]
    label: String,
    /// Its probability, from 0 to 1: by softmax where one label is right, by the logistic
    /// function where each label is right or wrong for itself.
    confidence: f32,
    /// Whether the end of the text was cut off, because the model reads no more.
    truncated: bool,
    /// All labels with a probability of at least 0.5; only of models with several labels at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<String>>,
    /// The `top_k` likeliest labels, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Vec<LabelScore>>,
}

/// A label and its probability.
#[derive(Debug, Serialize, ToSchema)]
struct LabelScore {
    /// The label's name.
    label: String,
    /// From 0 to 1.
    score: f32,
}

/// The answer for one text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PredictResponse {
    #[serde(flatten)]
    prediction: Prediction,
    /// The release that answered.
    #[schema(example = "v1")]
    model_version: String,
}

/// The answers for several texts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResponse {
    /// One for each text, in their order.
    predictions: Vec<BatchItem>,
    /// The release that answered.
    #[schema(example = "v1")]
    model_version: String,
}

/// What became of one of several texts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BatchItem {
    /// It was answered.
    Answered(Prediction),
    /// It was not; the other texts were.
    Failed {
        /// Why not.
        error: String,
    },
}

/// `POST /predict` with `{"text": "…"}` or `{"texts": ["…", …]}`: the likeliest label of each.
///
/// Other fields of the object are ignored, so that a client may talk to a newer server too.
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
        ),
    ),
    params(
        ("x-request-timeout-ms" = Option<u64>, Header, description = "How long the client waits, in milliseconds; the server's own limit where that is shorter"),
        ("content-encoding" = Option<String>, Header, description = "`gzip` or `deflate`, if the body is compressed"),
    ),
    responses(
        (
            status = 200,
            description = "The likeliest label of the text, or of each text",
            body = inline(PredictAnswer),
            headers(("x-predicted-label" = String, description = "The likeliest label of one text, for logs that do not read bodies")),
        ),
        super::error::BadBody,
        super::error::Refusals,
        super::error::InferenceFailures,
        (status = 404, description = "This release takes tensors, no texts", body = super::error::ErrorBody),
    )
)]
pub(super) async fn predict(
    State(state): State<Arc<ServerState>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let checked = expect_json(headers).and_then(|()| Deadline::of(&state, headers));
    let deadline = match checked {
        Ok(deadline) => deadline,
        Err(error) => return Err(body::refuse(&state, request, error).await),
    };
    let (body, room) = body::read(&state, &mut request, deadline).await?;
    let PredictRequest { text, texts, top_k } = parse(&body, state.max_texts)?;
    // It may be a part of the connection's buffer, which is larger.
    drop(body);
    let Task::Text(model) = &serving(&state)?.shop.task else {
        return Err(ApiError::NoTexts);
    };
    let model_version = state.model_version.clone();
    let (mut response, times) = match (text, texts) {
        (Some(text), _) => {
            let answer = ask(&state, Work::Text(text), room, deadline).await?;
            let times = answer.times;
            let prediction = prediction(model, answer, top_k).map_err(|it| it.of_one(deadline))?;
            // What a header cannot hold is left out of it.
            let label = HeaderValue::from_bytes(prediction.label.as_bytes());
            let body = PredictAnswer::One(PredictResponse {
                prediction,
                model_version,
            });
            let mut response = Json(body).into_response();
            if let Ok(label) = label {
                response.headers_mut().insert(PREDICTED_LABEL, label);
            }
            (response, times)
        }
        (None, texts) => {
            let texts = texts.unwrap_or_default();
            let blank: Vec<bool> = texts.iter().map(|text| is_blank(text)).collect();
            let work = texts.into_iter().filter(|text| !is_blank(text));
            let work = work.map(Work::Text).collect();
            let answers = ask_all(&state, work, room.as_ref(), deadline).await?;
            let times = answers.iter().map(|answer| answer.times);
            let times = times.fold(StageTimes::default(), StageTimes::longest);
            let predictions = several(model, &blank, answers, top_k, deadline)?;
            let body = PredictAnswer::Several(BatchResponse {
                predictions,
                model_version,
            });
            (Json(body).into_response(), times)
        }
    };
    response.extensions_mut().insert(Details {
        times: Some(times),
        ..Details::default()
    });
    Ok(response)
}

/// What `/predict` answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum PredictAnswer {
    /// To `text`.
    One(PredictResponse),
    /// To `texts`.
    Several(BatchResponse),
}

/// A text that got no prediction.
struct Refused(InferenceError);

impl Refused {
    /// The answer to a request of this text alone.
    fn of_one(self, deadline: Deadline) -> ApiError {
        match self.0 {
            InferenceError::Text(TextError::NoTokens) => ApiError::Field {
                field: TEXT,
                problem: self.0.to_string(),
            },
            InferenceError::TooLate => ApiError::Timeout(deadline.after()),
            InferenceError::NoTokenizer => ApiError::NoTexts,
            other => ApiError::Internal(other.to_string()),
        }
    }
}

/// One item per text, of which the blank ones were not asked; an error only where not a single text was answered.
fn several(
    model: &TextModel,
    blank: &[bool],
    answers: Vec<Answer>,
    top_k: Option<usize>,
    deadline: Deadline,
) -> Result<Vec<BatchItem>, ApiError> {
    let mut items = Vec::with_capacity(blank.len());
    let mut answered = false;
    let mut last = None;
    let mut answers = answers.into_iter();
    for blank in blank {
        let answer = if *blank { None } else { answers.next() };
        let Some(answer) = answer else {
            let error = "text is blank; expected some words".to_owned();
            items.push(BatchItem::Failed { error });
            continue;
        };
        items.push(match prediction(model, answer, top_k) {
            Ok(prediction) => {
                answered = true;
                BatchItem::Answered(prediction)
            }
            Err(refused) => {
                let error = refused.0.to_string();
                last = Some(refused);
                BatchItem::Failed { error }
            }
        });
    }
    match last {
        Some(refused) if !answered => Err(refused.of_one(deadline)),
        _ => Ok(items),
    }
}

fn prediction(
    model: &TextModel,
    answer: Answer,
    top_k: Option<usize>,
) -> Result<Prediction, Refused> {
    let (logits, truncated) = match answer.outcome.map_err(Refused)? {
        Outcome::Text {
            logits, truncated, ..
        } => (logits, truncated),
        Outcome::Tensors(_) => return Err(Refused(InferenceError::NoTokenizer)),
    };
    let probabilities = model.problem.probabilities(&logits);
    let probabilities = probabilities.map_err(|error| Refused(error.into()))?;
    let name = |place: usize| model.labels.get(place).unwrap_or_default().to_owned();
    let best = largest(&logits);
    let labels = model.problem.several_at_once().then(|| {
        let likely = |place: &usize| probabilities[*place] >= 0.5;
        (0..logits.len()).filter(likely).map(name).collect()
    });
    let scores = top_k.map(|top_k| {
        let score = |place| LabelScore {
            label: name(place),
            score: probabilities[place],
        };
        descending(&logits)
            .into_iter()
            .take(top_k)
            .map(score)
            .collect()
    });
    Ok(Prediction {
        label: name(best),
        confidence: probabilities[best],
        truncated,
        labels,
        scores,
    })
}

pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType("missing".to_owned()));
    };
    // As nearly everybody writes it.
    if value == "application/json" {
        return Ok(());
    }
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::ContentType(essence.to_owned()))
    }
}

const TEXT: &str = "text";
const TEXTS: &str = "texts";
const TOP_K: &str = "top_k";

fn parse(body: &[u8], max_texts: usize) -> Result<PredictRequest, ApiError> {
    match serde_json::from_slice(body) {
        // An array of the right length would be taken for an object.
        Ok(PredictRequest {
            text: Some(text),
            texts: None,
            top_k: None,
        }) if body.trim_ascii_start().starts_with(b"{") => Ok(PredictRequest {
            text: Some(text_of(Value::String(text), TEXT, || TEXT.to_owned())?),
            texts: None,
            top_k: None,
        }),
        // Everything else is read field by field, to tell what is wrong with which.
        _ => parse_by_field(body, max_texts),
    }
}

fn parse_by_field(body: &[u8], max_texts: usize) -> Result<PredictRequest, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::NoBody);
    }
    let mut object = match serde_json::from_slice(body).map_err(ApiError::Json)? {
        Value::Object(object) => object,
        other => return Err(ApiError::NotAnObject(kind_of(&other))),
    };
    let top_k = top_k_of(&mut object)?;
    let (text, texts) = match (object.remove(TEXT), object.remove(TEXTS)) {
        (Some(_), Some(_)) => {
            return Err(wrong(
                TEXTS,
                "text and texts are both there; expected one of them",
            ));
        }
        (Some(text), None) => (Some(text_of(text, TEXT, || TEXT.to_owned())?), None),
        (None, Some(texts)) => (None, Some(texts_of(texts, max_texts)?)),
        (None, None) => return Err(wrong(TEXT, "text is missing; expected a string")),
    };
    Ok(PredictRequest { text, texts, top_k })
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ApiError {
    ApiError::Field {
        field,
        problem: problem.into(),
    }
}

fn text_of(
    value: Value,
    field: &'static str,
    place: impl Fn() -> String,
) -> Result<String, ApiError> {
    match value {
        Value::String(text) if text.trim().is_empty() => Err(wrong(
            field,
            format!("{} is blank; expected some words", place()),
        )),
        Value::String(text) => Ok(text),
        other => Err(wrong(
            field,
            format!("{} is {}; expected a string", place(), kind_of(&other)),
        )),
    }
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn texts_of(value: Value, max_texts: usize) -> Result<Vec<String>, ApiError> {
    let texts = match value {
        Value::Array(texts) => texts,
        other => {
            let problem = format!("texts is {}; expected an array of strings", kind_of(&other));
            return Err(wrong(TEXTS, problem));
        }
    };
    if texts.is_empty() || texts.len() > max_texts {
        let problem = format!(
            "texts holds {}; expected 1 to {max_texts} strings",
            texts.len()
        );
        return Err(wrong(TEXTS, problem));
    }
    let text = |(place, text)| match text {
        // A blank one fails by itself.
        Value::String(text) => Ok(text),
        other => text_of(other, TEXTS, || format!("texts[{place}]")),
    };
    let texts: Vec<String> = texts
        .into_iter()
        .enumerate()
        .map(text)
        .collect::<Result<_, _>>()?;
    if texts.iter().all(|text| is_blank(text)) {
        return Err(wrong(TEXTS, "all of texts are blank; expected some words"));
    }
    Ok(texts)
}

fn top_k_of(object: &mut Map<String, Value>) -> Result<Option<usize>, ApiError> {
    match object.remove(TOP_K) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| *number >= 1)
            .map(Some)
            .ok_or_else(|| {
                wrong(
                    TOP_K,
                    format!("top_k is {value}; expected a whole number from 1 on"),
                )
            }),
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        parse(body.as_bytes(), 3).unwrap_err().to_string()
    }

    #[test]
    fn text_is_taken_out_of_the_object_and_other_fields_are_ignored() {
        let request = parse(br#"{"id": 7, "text": " as it is ", "more": [1]}"#, 3).unwrap();
        assert_eq!(request.text.as_deref(), Some(" as it is "));
    }

    #[test]
    fn invalid_json_is_located_by_line_and_column() {
        let message = message("{\n  \"text\": fine}");
        assert!(message.contains("line 2 column 12"), "{message}");
    }

    #[test]
    fn what_stands_in_place_of_the_text_is_named() {
        for (body, expected) in [
            ("{}", "text is missing"),
            (r#"{"text": null}"#, "text is null"),
            (r#"{"text": 7}"#, "text is a number"),
            (r#"{"text": ["a"]}"#, "text is an array"),
            (r#"{"text": ""}"#, "text is blank"),
            (r#"{"text": " \n\t"}"#, "text is blank"),
            (r#"["text"]"#, "the body is an array"),
            (r#"["text", null, null]"#, "the body is an array"),
            (r#""text""#, "the body is a string"),
            (" ", "the body is empty"),
            (r#"{"texts": "a"}"#, "texts is a string"),
            (r#"{"texts": []}"#, "texts holds 0; expected 1 to 3"),
            (r#"{"texts": ["a", "b", "c", "d"]}"#, "texts holds 4"),
            (r#"{"texts": ["a", 7]}"#, "texts[1] is a number"),
            (r#"{"texts": ["", " "]}"#, "all of texts are blank"),
            (
                r#"{"text": "a", "texts": ["b"]}"#,
                "text and texts are both there",
            ),
            (r#"{"text": "a", "top_k": 0}"#, "top_k is 0"),
            (r#"{"text": "a", "top_k": "2"}"#, "top_k is \"2\""),
            (r#"{"text": "a", "top_k": 1.5}"#, "top_k is 1.5"),
        ] {
            let message = message(body);
            assert!(message.starts_with(expected), "{body}: {message}");
        }
    }
}

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::{error::ApiError, json::json_type_name};

/// One text or several.
#[derive(Debug, PartialEq, Deserialize, ToSchema)]
pub(crate) struct PredictRequest {
    /// The text to classify; either this or `texts`.
    #[schema(example = "a fine film")]
    pub(crate) text: Option<String>,
    /// Several texts to classify; either this or `text`.
    pub(crate) texts: Option<Vec<String>>,
    /// How many labels to list with their scores, most likely first; none by default.
    #[schema(minimum = 1)]
    pub(crate) top_k: Option<usize>,
}

pub(crate) const TEXT: &str = "text";
pub(crate) const TEXTS: &str = "texts";
const TOP_K: &str = "top_k";

pub(crate) fn parse(body: &[u8], max_texts: usize) -> Result<PredictRequest, ApiError> {
    match serde_json::from_slice(body) {
        // serde would accept an array of matching length as a struct.
        Ok(PredictRequest {
            text: Some(text),
            texts: None,
            top_k: None,
        }) if body.trim_ascii_start().starts_with(b"{") => Ok(PredictRequest {
            text: Some(text_of(Value::String(text), TEXT, || TEXT.to_owned())?),
            texts: None,
            top_k: None,
        }),
        // All other bodies are read field by field, to name the invalid field.
        _ => parse_by_field(body, max_texts),
    }
}

fn parse_by_field(body: &[u8], max_texts: usize) -> Result<PredictRequest, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::NoBody);
    }
    let mut object = match serde_json::from_slice(body).map_err(ApiError::Json)? {
        Value::Object(object) => object,
        other => return Err(ApiError::NotAnObject(json_type_name(&other))),
    };
    let top_k = top_k_of(&mut object)?;
    let (text, texts) = match (object.remove(TEXT), object.remove(TEXTS)) {
        (Some(_), Some(_)) => {
            return Err(wrong(
                TEXTS,
                "text and texts are both set; expected one of them",
            ));
        }
        (Some(text), None) => (Some(text_of(text, TEXT, || TEXT.to_owned())?), None),
        (None, Some(texts)) => (None, Some(texts_of(texts, max_texts)?)),
        (None, None) => return Err(wrong(TEXT, "text is missing; expected a string")),
    };
    Ok(PredictRequest { text, texts, top_k })
}

pub(crate) fn wrong(field: &'static str, problem: impl Into<String>) -> ApiError {
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
            format!(
                "{} is {}; expected a string",
                place(),
                json_type_name(&other)
            ),
        )),
    }
}

pub(crate) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn texts_of(value: Value, max_texts: usize) -> Result<Vec<String>, ApiError> {
    let texts = match value {
        Value::Array(texts) => texts,
        other => {
            let problem = format!(
                "texts is {}; expected an array of strings",
                json_type_name(&other)
            );
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
        // A blank text fails alone.
        Value::String(text) => Ok(text),
        other => text_of(other, TEXTS, || format!("texts[{place}]")),
    };
    let texts: Vec<String> = texts
        .into_iter()
        .enumerate()
        .map(text)
        .collect::<Result<_, _>>()?;
    if texts.iter().all(|text| is_blank(text)) {
        return Err(wrong(TEXTS, "all texts are blank; expected some words"));
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
                    format!("top_k is {value}; expected a positive integer"),
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        parse(body.as_bytes(), 3).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let request = parse(br#"{"id": 7, "text": " as it is ", "more": [1]}"#, 3).unwrap();
        assert_eq!(request.text.as_deref(), Some(" as it is "));
    }

    #[test]
    fn invalid_json_error_has_line_and_column() {
        let message = message("{\n  \"text\": fine}");
        assert!(message.contains("line 2 column 12"), "{message}");
    }

    #[test]
    fn error_names_invalid_field() {
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
            (r#"{"texts": ["", " "]}"#, "all texts are blank"),
            (
                r#"{"text": "a", "texts": ["b"]}"#,
                "text and texts are both set",
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

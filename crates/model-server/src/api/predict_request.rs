use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::{error::ApiError, json::json_type_name};

/// One text or several, each alone or with a second one.
#[derive(Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictRequest {
    /// The text to classify; either this or `texts`.
    #[schema(example = "a fine film")]
    pub(crate) text: Option<String>,
    /// The second text of a pair whose first one is `text`, for models that classify pairs.
    pub(crate) text_pair: Option<String>,
    /// Several texts to classify; either this or `text`.
    pub(crate) texts: Option<Vec<String>>,
    /// The second text of each pair, in the order of `texts`.
    pub(crate) text_pairs: Option<Vec<String>>,
    /// How many labels to list with their scores, most likely first; none by default.
    #[schema(minimum = 1)]
    pub(crate) top_k: Option<usize>,
}

pub(crate) const TEXT: &str = "text";
pub(crate) const TEXT_PAIR: &str = "text_pair";
pub(crate) const TEXTS: &str = "texts";
pub(crate) const TEXT_PAIRS: &str = "text_pairs";
const TOP_K: &str = "top_k";
const FIELDS: [&str; 5] = [TEXT, TEXT_PAIR, TEXTS, TEXT_PAIRS, TOP_K];

/// From this similarity (0 to 1) on, an unknown field is taken for a known one. clap suggests options with it.
const SIMILAR: f64 = 0.7;
/// How much of an unknown field's name an error repeats.
const MAX_NAME: usize = 64;

pub(crate) fn parse(body: &[u8], max_texts: usize) -> Result<PredictRequest, ApiError> {
    let only_text = |request: &PredictRequest| {
        let PredictRequest {
            text,
            text_pair: None,
            texts: None,
            text_pairs: None,
            top_k: None,
        } = request
        else {
            return false;
        };
        text.as_deref().is_some_and(|text| !is_blank(text))
    };
    match serde_json::from_slice(body) {
        // serde would accept an array of matching length as a struct.
        Ok(request) if body.trim_ascii_start().starts_with(b"{") && only_text(&request) => {
            Ok(request)
        }
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
    // A field that is null counts as missing.
    object.retain(|_, value| !value.is_null());
    if let Some(name) = object.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(unknown(name));
    }
    let top_k = object.remove(TOP_K).as_ref().map(top_k_of).transpose()?;
    let text = object.remove(TEXT);
    let texts = object.remove(TEXTS);
    let second = match (object.remove(TEXT_PAIR), object.remove(TEXT_PAIRS)) {
        (Some(_), _) if text.is_none() => {
            return Err(wrong(TEXT_PAIR, "text_pair is set without text"));
        }
        (_, Some(_)) if texts.is_none() => {
            return Err(wrong(TEXT_PAIRS, "text_pairs is set without texts"));
        }
        (text_pair, text_pairs) => (text_pair, text_pairs),
    };
    match (text, texts, second) {
        (Some(_), Some(_), _) => Err(wrong(
            TEXTS,
            "text and texts are both set; expected one of them",
        )),
        (Some(text), None, (text_pair, _)) => Ok(PredictRequest {
            text: Some(text_of(text, TEXT)?),
            text_pair: text_pair.map(|it| text_of(it, TEXT_PAIR)).transpose()?,
            top_k,
            ..PredictRequest::default()
        }),
        (None, Some(texts), (_, text_pairs)) => {
            let texts = texts_of(texts, TEXTS, max_texts)?;
            let text_pairs = text_pairs.map(|it| texts_of(it, TEXT_PAIRS, max_texts));
            let text_pairs = text_pairs.transpose()?;
            check_several(&texts, text_pairs.as_deref())?;
            Ok(PredictRequest {
                texts: Some(texts),
                text_pairs,
                top_k,
                ..PredictRequest::default()
            })
        }
        (None, None, _) => Err(wrong(TEXT, "text is missing; expected a string")),
    }
}

/// Fails if the texts and their second ones are not equally many, or if a blank one is in each pair.
fn check_several(texts: &[String], text_pairs: Option<&[String]>) -> Result<(), ApiError> {
    if let Some(pairs) = text_pairs.filter(|pairs| pairs.len() != texts.len()) {
        let problem = format!(
            "text_pairs holds {}, but texts holds {}; expected one for each text",
            pairs.len(),
            texts.len()
        );
        return Err(wrong(TEXT_PAIRS, problem));
    }
    let pair = |place: usize| text_pairs.map(|pairs| pairs[place].as_str());
    let mut texts = texts.iter().enumerate();
    if texts.all(|(place, text)| blank_field(text, pair(place)).is_some()) {
        return Err(wrong(TEXTS, "all texts are blank; expected some words"));
    }
    Ok(())
}

/// Returns the error for a field that does not exist, with the known fields.
fn unknown(name: &str) -> ApiError {
    let field: String = name.chars().take(MAX_NAME).collect();
    let similarities = FIELDS.map(|known| (strsim::jaro(&field, known), known));
    let nearest = similarities
        .into_iter()
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let guess = nearest.filter(|(similarity, _)| *similarity > SIMILAR);
    let guess = guess.map_or(String::new(), |(_, known)| {
        format!("did you mean {known}? ")
    });
    let problem = format!(
        "field {field:?} is unknown; {guess}known are {}",
        FIELDS.join(", ")
    );
    ApiError::UnknownField { field, problem }
}

pub(crate) fn wrong(field: &'static str, problem: impl Into<String>) -> ApiError {
    ApiError::Field {
        field,
        problem: problem.into(),
    }
}

fn text_of(value: Value, field: &'static str) -> Result<String, ApiError> {
    match value {
        Value::String(text) if is_blank(&text) => Err(wrong(
            field,
            format!("{field} is blank; expected some words"),
        )),
        Value::String(text) => Ok(text),
        other => Err(no_string(&other, field, field)),
    }
}

fn no_string(value: &Value, field: &'static str, place: &str) -> ApiError {
    let kind = json_type_name(value);
    wrong(field, format!("{place} is {kind}; expected a string"))
}

pub(crate) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Returns which text of a pair is blank, or of a text alone.
pub(crate) fn blank_field(text: &str, pair: Option<&str>) -> Option<&'static str> {
    if is_blank(text) {
        Some(TEXT)
    } else if pair.is_some_and(is_blank) {
        Some(TEXT_PAIR)
    } else {
        None
    }
}

fn texts_of(value: Value, field: &'static str, most: usize) -> Result<Vec<String>, ApiError> {
    let texts = match value {
        Value::Array(texts) => texts,
        other => {
            let kind = json_type_name(&other);
            let problem = format!("{field} is {kind}; expected an array of strings");
            return Err(wrong(field, problem));
        }
    };
    if texts.is_empty() || texts.len() > most {
        let problem = format!(
            "{field} holds {}; expected 1 to {most} strings",
            texts.len()
        );
        return Err(wrong(field, problem));
    }
    let text = |(place, text)| match text {
        // A blank text fails alone.
        Value::String(text) => Ok(text),
        other => Err(no_string(&other, field, &format!("{field}[{place}]"))),
    };
    texts.into_iter().enumerate().map(text).collect()
}

fn top_k_of(value: &Value) -> Result<usize, ApiError> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| *number >= 1)
        .ok_or_else(|| {
            let problem = format!("top_k is {value}; expected a positive integer");
            wrong(TOP_K, problem)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        parse(body.as_bytes(), 3).unwrap_err().to_string()
    }

    #[test]
    fn unknown_field_is_refused_with_the_known_ones() {
        for (body, expected) in [
            (
                r#"{"text": "a", "id": 7}"#,
                "field \"id\" is unknown; known are text, text_pair, texts, text_pairs, top_k",
            ),
            (
                r#"{"text": "a", "topk": 2}"#,
                "field \"topk\" is unknown; did you mean top_k? known are",
            ),
            (
                r#"{"texts": ["a"], "texts_pair": ["b"]}"#,
                "field \"texts_pair\" is unknown; did you mean text_pair",
            ),
            (
                r#"{"Text": "a"}"#,
                "field \"Text\" is unknown; did you mean text?",
            ),
            (
                r#"{"text": "a", "": 1}"#,
                "field \"\" is unknown; known are",
            ),
        ] {
            let message = message(body);
            assert!(message.starts_with(expected), "{body}: {message}");
        }
        let long = format!(r#"{{"{}": 1}}"#, "é".repeat(1000));
        assert!(message(&long).len() < 300);
    }

    #[test]
    fn text_is_taken_as_it_is() {
        let request = parse(br#"{"text": " as it is "}"#, 3).unwrap();
        assert_eq!(request.text.as_deref(), Some(" as it is "));
    }

    #[test]
    fn pairs_are_read_beside_their_texts() {
        let one = parse(br#"{"text": "a", "text_pair": "b", "texts": null}"#, 3).unwrap();
        assert_eq!(
            (one.text.as_deref(), one.text_pair.as_deref()),
            (Some("a"), Some("b"))
        );
        let several = parse(br#"{"texts": ["a", ""], "text_pairs": ["b", "c"]}"#, 3).unwrap();
        assert_eq!(several.text_pairs.unwrap(), ["b", "c"]);
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
            (r#"{"text": null}"#, "text is missing"),
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
            (r#"{"text_pair": "b"}"#, "text_pair is set without text"),
            (
                r#"{"texts": ["a"], "text_pair": "b"}"#,
                "text_pair is set without text",
            ),
            (
                r#"{"text": "a", "text_pairs": ["b"]}"#,
                "text_pairs is set without texts",
            ),
            (
                r#"{"text": "a", "text_pair": ["b"]}"#,
                "text_pair is an array",
            ),
            (r#"{"text": "a", "text_pair": " "}"#, "text_pair is blank"),
            (
                r#"{"texts": ["a"], "text_pairs": ["b", "c"]}"#,
                "text_pairs holds 2, but texts holds 1",
            ),
            (
                r#"{"texts": ["a"], "text_pairs": [7]}"#,
                "text_pairs[0] is a number",
            ),
            (
                r#"{"texts": ["a", " "], "text_pairs": [" ", "b"]}"#,
                "all texts are blank",
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

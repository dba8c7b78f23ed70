use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use serde_json::Value;

use crate::api::error::ApiError;

const JSON: &str = "application/json";

/// Fails unless the client says that the body is JSON.
pub(crate) fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    match media_type(headers) {
        Some(media_type) => expect_one_of(&[JSON], &media_type),
        None => Err(ApiError::ContentType("missing".to_owned())),
    }
}

/// Fails if the client says that the body is neither JSON nor JSON with binary data after it.
pub(crate) fn expect_json_or_binary(headers: &HeaderMap) -> Result<(), ApiError> {
    media_type(headers).map_or(Ok(()), |media_type| {
        expect_one_of(&[JSON, "application/octet-stream"], &media_type)
    })
}

/// Returns the media type of the body, without its parameters.
fn media_type(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let essence = value.split(|byte| *byte == b';').next()?;
    Some(String::from_utf8_lossy(essence.trim_ascii()))
}

fn expect_one_of(accepted: &[&str], media_type: &str) -> Result<(), ApiError> {
    if accepted
        .iter()
        .any(|it| it.eq_ignore_ascii_case(media_type))
    {
        return Ok(());
    }
    Err(ApiError::ContentType(media_type.to_owned()))
}

pub(crate) fn json_type_name(value: &Value) -> &'static str {
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
    use axum::http::HeaderValue;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))])
    }

    #[test]
    fn media_type_is_compared_without_case_and_parameters() {
        for value in ["application/json", "Application/JSON ; charset=utf-8"] {
            assert!(expect_json(&headers(value)).is_ok(), "{value}");
            assert!(expect_json_or_binary(&headers(value)).is_ok(), "{value}");
        }
        let binary = headers("application/octet-stream");
        assert!(expect_json(&binary).is_err());
        assert!(expect_json_or_binary(&binary).is_ok());
        for value in ["text/plain", "", "application/json+x"] {
            assert!(expect_json(&headers(value)).is_err(), "{value}");
            assert!(expect_json_or_binary(&headers(value)).is_err(), "{value}");
        }
    }

    #[test]
    fn only_the_protocol_accepts_a_missing_media_type() {
        assert!(expect_json(&HeaderMap::new()).is_err());
        assert!(expect_json_or_binary(&HeaderMap::new()).is_ok());
    }
}

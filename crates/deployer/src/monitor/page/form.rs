//! The fields of a form.

use axum::http::{HeaderMap, StatusCode, header};

use crate::monitor::page::guards::{Refusal, only};

/// The longest body of a form, in bytes.
pub(crate) const MAX_BODY: usize = 8 << 10;
/// The longest reason, in characters.
pub(super) const MAX_REASON: usize = 500;
/// The longest other field, in characters.
const MAX_FIELD: usize = 200;

/// The fields that were sent, each once.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads the body of a POST. `known` are the fields that the form has.
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8], known: &[&str]) -> Result<Self, Refusal> {
        let kind = only(headers, &header::CONTENT_TYPE).ok().flatten();
        let kind = kind.and_then(|kind| kind.split(';').next());
        if kind.map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the request is not a form (application/x-www-form-urlencoded)",
            ));
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if !known.contains(&&*name) {
                return Err(wrong("the form has a field that is not known here"));
            }
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(wrong(format!("the form has the field {name} twice")));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(fields))
    }

    /// Returns a field. Fails if it is missing, empty, or not one line of visible characters.
    pub(crate) fn field(&self, name: &str) -> Result<&str, Refusal> {
        let value = self.0.iter().find(|(field, _)| field == name);
        let value = value.map(|(_, value)| value.trim()).unwrap_or_default();
        if value.is_empty() || value.chars().count() > MAX_FIELD || value.contains(char::is_control)
        {
            return Err(wrong(format!(
                "the field {name} must have 1 to {MAX_FIELD} characters on one line"
            )));
        }
        Ok(value)
    }

    /// Returns whether a field was sent and is not empty.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(field, value)| field == name && !value.trim().is_empty())
    }

    /// Returns why a person acts, as one line.
    pub(crate) fn reason(&self) -> Result<String, Refusal> {
        let given = self.0.iter().find(|(field, _)| field == "reason");
        let given = given.map(|(_, value)| &**value).unwrap_or_default();
        let lines = given.split_whitespace().collect::<Vec<_>>().join(" ");
        if lines.is_empty() {
            return Err(wrong("nothing was done, because no reason was given"));
        }
        if lines.chars().count() > MAX_REASON || lines.contains(char::is_control) {
            return Err(wrong(format!(
                "nothing was done: a reason has at most {MAX_REASON} characters, all of them visible"
            )));
        }
        Ok(lines)
    }
}

/// A form that cannot be carried out as it is.
pub(crate) fn wrong(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn parse(body: &str) -> Result<Fields, Refusal> {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, kind);
        Fields::parse(&headers, body.as_bytes(), &["reason", "color"])
    }

    #[test]
    fn reason_becomes_one_line() {
        let fields = parse("reason=+too%0D%0Aslow+%E2%80%94+see+graph&color=blue").unwrap();
        assert_eq!(fields.reason().unwrap(), "too slow — see graph");
        assert_eq!(fields.field("color").unwrap(), "blue");
    }

    #[test]
    fn reason_that_is_empty_long_or_invisible_is_refused() {
        for body in [
            String::new(),
            "reason=+%0A".to_owned(),
            "reason=a%1B%5B31m".to_owned(),
            format!("reason={}", "a".repeat(MAX_REASON + 1)),
        ] {
            assert!(parse(&body).unwrap().reason().is_err(), "{body}");
        }
    }

    #[test]
    fn unknown_and_repeated_fields_are_refused() {
        for body in ["color=blue&color=green", "other=1"] {
            let refusal = parse(body).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        }
        let refusal = Fields::parse(&HeaderMap::new(), b"reason=a", &["reason"]).unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn field_with_several_lines_is_refused() {
        for body in ["color=", "color=a%0Ab", "reason=a"] {
            let refusal = parse(body).unwrap().field("color").unwrap_err();
            assert!(refusal.text.contains("field color"), "{refusal:?}");
        }
    }
}

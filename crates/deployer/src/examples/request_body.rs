//! Turns a test input into the body of a request.

use serde_json::{Map, Value, json};

use crate::config::ProbeSettings;

/// Returns the body of a request for a test input. Fails with what the input must be.
///
/// A server that generates text gets `messages` or a `prompt`. The input is a text, an object with `text`, a list of
/// messages, or an object with the request's own fields, which override those of the settings.
pub(super) fn request_body(probe: &ProbeSettings, input: Value) -> Result<Value, String> {
    let kind = probe.kind;
    if !kind.generates() {
        return Ok(input);
    }
    let mut body = Map::new();
    if let Some(model) = &probe.model {
        body.insert("model".to_owned(), json!(model));
    }
    body.insert("max_tokens".to_owned(), json!(probe.max_tokens));
    // The likeliest token, so that an answer can be compared with another one.
    body.insert("temperature".to_owned(), json!(0));
    if kind.is_streamed() {
        body.insert("stream".to_owned(), json!(true));
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    let question = if kind.is_chat() { "messages" } else { "prompt" };
    match input {
        Value::String(text) => {
            body.insert(question.to_owned(), question_of(kind.is_chat(), text));
        }
        Value::Array(messages) if kind.is_chat() => {
            body.insert(question.to_owned(), Value::Array(messages));
        }
        Value::Object(mut fields) => {
            if !fields.contains_key(question)
                && let Some(Value::String(text)) = fields.remove("text")
            {
                body.insert(question.to_owned(), question_of(kind.is_chat(), text));
            }
            body.extend(fields);
        }
        _ => {}
    }
    if body.contains_key(question) {
        Ok(Value::Object(body))
    } else {
        Err(format!(
            "expected \"input\" to be a text, or an object with \"{question}\", because of probe.kind"
        ))
    }
}

fn question_of(is_chat: bool, text: String) -> Value {
    if is_chat {
        json!([{"role": "user", "content": text}])
    } else {
        Value::String(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str, input: Value) -> Result<Value, String> {
        let given = [format!("probe.kind={kind}"), "probe.model=tiny".to_owned()];
        request_body(&crate::config::load(None, &given).unwrap().probe, input)
    }

    #[test]
    fn text_becomes_message_or_prompt() {
        let user = json!([{"role": "user", "content": "hi"}]);
        for (kind, question, expected, streamed) in [
            ("chat", "messages", user.clone(), Value::Null),
            ("stream", "messages", user, json!(true)),
            ("completion", "prompt", json!("hi"), Value::Null),
            ("completion-stream", "prompt", json!("hi"), json!(true)),
        ] {
            for input in [json!("hi"), json!({"text": "hi"})] {
                let body = body(kind, input).unwrap();
                assert_eq!(body[question], expected, "{kind}");
                assert_eq!(body["stream"], streamed, "{kind}");
                assert_eq!(body["model"], "tiny");
                assert_eq!(body["max_tokens"], 64);
            }
        }
    }

    #[test]
    fn fields_of_input_override_settings() {
        let messages = json!([{"role": "system", "content": "be brief"}]);
        let input = json!({"messages": messages, "max_tokens": 3, "seed": 1});
        let body = body("stream", input).unwrap();
        assert_eq!(
            (&body["messages"], &body["max_tokens"]),
            (&messages, &json!(3))
        );
        assert_eq!(
            (&body["seed"], &body["temperature"]),
            (&json!(1), &json!(0))
        );
    }

    #[test]
    fn input_without_question_is_an_error_and_json_is_sent_as_it_is() {
        let error = body("chat", json!({"prompt": "hi"})).unwrap_err();
        assert!(error.contains("\"messages\""), "{error}");
        assert!(body("completion", json!(7)).is_err());
        assert_eq!(body("json", json!(7)), Ok(json!(7)));
    }
}

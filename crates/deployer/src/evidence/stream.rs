//! A stream of generated text: its times, and why it is of no use.

use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use crate::config::StreamSettings;

/// When the parts of a stream arrived. Times count from when the request was sent, or was due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamTimes {
    /// To the first event.
    pub to_first_event: Duration,
    /// To the first event with text.
    pub to_first_token: Duration,
    /// Between each event with text and the next one.
    pub gaps: Vec<Duration>,
    /// The longest time without an event.
    pub longest_silence: Duration,
    /// Generated tokens, as the server counts them; otherwise the events with text.
    pub tokens: u64,
    /// To the end.
    pub took: Duration,
}

impl StreamTimes {
    /// The mean time between tokens; `None` for fewer than two events with text.
    #[must_use]
    pub fn mean_gap(&self) -> Option<Duration> {
        let count = u32::try_from(self.gaps.len()).ok()?;
        self.gaps.iter().sum::<Duration>().checked_div(count)
    }

    /// Tokens per second after the first one; `None` if there is no second one.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.gaps.iter().sum::<Duration>().as_secs_f64();
        (seconds > 0.0).then(|| self.tokens.saturating_sub(1) as f64 / seconds)
    }
}

/// A whole stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamAnswer {
    /// When its parts arrived.
    pub times: StreamTimes,
    /// The generated text.
    pub text: String,
    /// Why the server ended it, such as `stop` or `length`.
    pub finish_reason: Option<String>,
}

/// Why a generated answer with a status of success is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerFailure {
    /// The server ignored that a stream was asked for.
    #[error(
        "the answer is not a stream: its content type is {content_type:?}, not text/event-stream"
    )]
    NotAStream {
        /// The content type.
        content_type: String,
    },
    /// The server said that it failed, in an event or in the document.
    #[error("the server reports an error in its answer after {tokens} tokens: {message}")]
    ReportedError {
        /// What it said.
        message: String,
        /// The events with text before.
        tokens: u64,
    },
    /// The answer is whole, and says nothing.
    #[error("the generated text is empty")]
    EmptyText,
    /// The stream ended early.
    #[error("the stream was cut after {tokens} tokens, before {missing}")]
    Cut {
        /// The events with text before.
        tokens: u64,
        /// What a whole stream has.
        missing: String,
    },
    /// No event came for too long.
    #[error("the stream was silent for {} after {tokens} tokens (probe.stream.max_silence)", humantime::format_duration(*limit))]
    Silent {
        /// The events with text before.
        tokens: u64,
        /// The longest silence.
        limit: Duration,
    },
    /// The stream went on for too long.
    #[error("the stream never ended: it went on for {} and had {tokens} tokens (probe.stream.max_duration)", humantime::format_duration(*limit))]
    NeverEnded {
        /// The events with text.
        tokens: u64,
        /// The longest duration.
        limit: Duration,
    },
    /// The answer has more bytes than the deployer reads.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer does not read as `OpenAI`'s interface says.
    #[error("the answer is not what a server with OpenAI's interface sends: {0}")]
    Invalid(String),
}

impl AnswerFailure {
    /// The kind of failure, so that equal failures are counted together.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAStream { .. } => "not a stream",
            Self::ReportedError { .. } => "error in the answer",
            Self::EmptyText => "empty text",
            Self::Cut { .. } => "stream cut",
            Self::Silent { .. } => "stream silent",
            Self::NeverEnded { .. } => "stream never ended",
            Self::TooLarge { .. } => "answer too large",
            Self::Invalid(_) => "invalid answer",
        }
    }
}

/// Puts the events of a stream together.
#[derive(Debug)]
pub struct StreamReader<'a> {
    settings: &'a StreamSettings,
    answer: StreamAnswer,
    /// Events with text.
    tokens: u64,
    /// Whether the model called a tool, which is an answer without text.
    called_tool: bool,
    last_event: Option<Duration>,
    last_token: Option<Duration>,
    ended: bool,
}

impl<'a> StreamReader<'a> {
    /// Creates a reader of a stream without an event.
    #[must_use]
    pub fn new(settings: &'a StreamSettings) -> Self {
        Self {
            settings,
            answer: StreamAnswer::default(),
            tokens: 0,
            called_tool: false,
            last_event: None,
            last_token: None,
            ended: false,
        }
    }

    /// The events with text so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Whether the end mark has come.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads the data of an event, and its type if it has one. `at` counts from the request.
    pub fn read(
        &mut self,
        at: Duration,
        kind: Option<&str>,
        data: &str,
    ) -> Result<(), AnswerFailure> {
        let times = &mut self.answer.times;
        if self.last_event.is_none() {
            times.to_first_event = at;
        }
        let silence = at.saturating_sub(self.last_event.unwrap_or_default());
        times.longest_silence = times.longest_silence.max(silence);
        self.last_event = Some(at);
        if self.settings.end_mark.as_deref() == Some(data.trim()) {
            self.ended = true;
            return Ok(());
        }
        let Ok(body) = serde_json::from_str::<Value>(data) else {
            return Err(if kind == Some("error") {
                self.reported(data)
            } else {
                AnswerFailure::Invalid(format!("an event is not JSON: {}", beginning(data)))
            });
        };
        if let Some(message) = error_in(&body) {
            return Err(self.reported(&message));
        }
        if kind == Some("error") {
            return Err(self.reported(data));
        }
        let tokens = body.pointer("/usage/completion_tokens");
        if let Some(tokens) = tokens.and_then(Value::as_u64) {
            self.answer.times.tokens = tokens;
        }
        let Some(choice) = body.pointer("/choices/0") else {
            return Ok(());
        };
        self.called_tool |= choice.pointer("/delta/tool_calls").is_some_and(is_set);
        if let Some(text) = new_text(choice) {
            self.add_token(at, text);
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.answer.finish_reason = Some(reason.to_owned());
        }
        Ok(())
    }

    fn add_token(&mut self, at: Duration, text: &str) {
        let times = &mut self.answer.times;
        match self.last_token {
            None => times.to_first_token = at,
            Some(last) => times.gaps.push(at.saturating_sub(last)),
        }
        self.last_token = Some(at);
        self.tokens += 1;
        self.answer.text.push_str(text);
    }

    fn reported(&self, message: &str) -> AnswerFailure {
        AnswerFailure::ReportedError {
            message: beginning(message),
            tokens: self.tokens,
        }
    }

    /// The failure of a stream that ended, or broke off, before it was whole.
    #[must_use]
    pub fn cut(&self) -> AnswerFailure {
        AnswerFailure::Cut {
            tokens: self.tokens,
            missing: self.settings.to_string(),
        }
    }

    /// Ends the stream. Fails if it is not whole.
    pub fn finish(mut self, took: Duration) -> Result<StreamAnswer, AnswerFailure> {
        let has_mark = self.ended || self.settings.end_mark.is_none();
        let has_reason = self.answer.finish_reason.is_some() || !self.settings.finish_reason;
        if !has_mark || !has_reason {
            return Err(self.cut());
        }
        if self.answer.text.trim().is_empty() && !self.called_tool {
            return Err(AnswerFailure::EmptyText);
        }
        let times = &mut self.answer.times;
        if self.last_token.is_none() {
            times.to_first_token = times.to_first_event;
        }
        times.tokens = times.tokens.max(self.tokens);
        times.took = took;
        Ok(self.answer)
    }
}

/// Returns the generated text of a whole document. Fails if it has none.
pub fn text_of_document(body: &Value) -> Result<String, AnswerFailure> {
    if let Some(message) = error_in(body) {
        let message = beginning(&message);
        return Err(AnswerFailure::ReportedError { message, tokens: 0 });
    }
    let Some(choice) = body.pointer("/choices/0") else {
        let text = "it has no \"choices\"".to_owned();
        return Err(AnswerFailure::Invalid(text));
    };
    let text = choice.pointer("/message/content").or(choice.get("text"));
    let text = text.and_then(Value::as_str).unwrap_or_default();
    let called_tool = choice.pointer("/message/tool_calls").is_some_and(is_set);
    if text.trim().is_empty() && !called_tool {
        return Err(AnswerFailure::EmptyText);
    }
    Ok(text.to_owned())
}

/// The text that an event adds: an answer, or a thought before the answer.
fn new_text(choice: &Value) -> Option<&str> {
    [
        "/delta/content",
        "/delta/reasoning_content",
        "/delta/reasoning",
        "/text",
    ]
    .into_iter()
    .filter_map(|place| choice.pointer(place)?.as_str())
    .find(|text| !text.is_empty())
}

/// Whether a value is more than null or an empty list.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

/// The error that an answer reports, if it does.
fn error_in(body: &Value) -> Option<String> {
    let error = body.get("error").filter(|error| is_set(error))?;
    let message = error.get("message").unwrap_or(error);
    Some(
        message
            .as_str()
            .map_or_else(|| message.to_string(), str::to_owned),
    )
}

/// The beginning of a text, for a message.
fn beginning(text: &str) -> String {
    const CHARACTERS: usize = 120;

    text.chars().take(CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: &[&str]) -> StreamSettings {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        crate::config::load(None, &given).unwrap().probe.stream
    }

    fn read(
        settings: &StreamSettings,
        events: &[(u64, &str)],
    ) -> Result<StreamAnswer, AnswerFailure> {
        let mut reader = StreamReader::new(settings);
        for (at, data) in events {
            reader.read(Duration::from_millis(*at), None, data)?;
        }
        reader.finish(Duration::from_secs(1))
    }

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const ONE: &str = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
    const END: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"completion_tokens":5}}"#;
    const DONE: &str = "[DONE]";

    #[test]
    fn whole_stream_yields_text_and_times() {
        let events = [
            (10, ROLE),
            (20, ONE),
            (25, ONE),
            (125, ONE),
            (126, END),
            (126, USAGE),
            (127, DONE),
        ];
        let answer = read(&settings(&[]), &events).unwrap();
        let ms = Duration::from_millis;
        assert_eq!(
            (answer.text.as_str(), answer.finish_reason.as_deref()),
            ("aaa", Some("stop"))
        );
        assert_eq!(answer.times.to_first_event, ms(10));
        assert_eq!(answer.times.to_first_token, ms(20));
        assert_eq!(answer.times.gaps, [ms(5), ms(100)]);
        assert_eq!(answer.times.longest_silence, ms(100));
        assert_eq!(answer.times.tokens, 5);
        assert_eq!(answer.times.mean_gap(), Some(Duration::from_micros(52_500)));
        let rate = answer.times.tokens_per_second().unwrap();
        assert!((rate - 4.0 / 0.105).abs() < 1e-9, "{rate}");
    }

    #[test]
    fn stream_is_whole_when_it_has_what_the_settings_name() {
        let cut = |tokens, missing: &str| {
            Err(AnswerFailure::Cut {
                tokens,
                missing: missing.to_owned(),
            })
        };
        let usual = settings(&[]);
        let both = "its finish reason and [DONE]";
        assert_eq!(read(&usual, &[(1, ONE), (2, ONE)]), cut(2, both));
        assert_eq!(read(&usual, &[(1, ONE), (2, END)]), cut(1, both));
        assert_eq!(read(&usual, &[(1, ONE), (2, DONE)]), cut(1, both));
        let no_mark = settings(&["probe.stream.end_mark="]);
        assert!(read(&no_mark, &[(1, ONE), (2, END)]).is_ok());
        assert_eq!(read(&no_mark, &[(1, ONE)]), cut(1, "its finish reason"));
        let no_reason = settings(&["probe.stream.finish_reason=false"]);
        assert!(read(&no_reason, &[(1, ONE), (2, DONE)]).is_ok());
    }

    #[test]
    fn each_useless_stream_fails_for_its_own_reason() {
        let usual = settings(&[]);
        let kind = |events: &[(u64, &str)]| read(&usual, events).unwrap_err().kind();
        assert_eq!(kind(&[(1, ROLE), (2, END), (3, DONE)]), "empty text");
        let error = r#"{"error":{"message":"out of memory","code":500}}"#;
        assert_eq!(
            kind(&[(1, ONE), (2, error), (3, DONE)]),
            "error in the answer"
        );
        assert_eq!(kind(&[(1, "no JSON")]), "invalid answer");
        let error = read(&usual, &[(1, ONE), (2, error)])
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("after 1 tokens: out of memory"), "{error}");
    }

    #[test]
    fn call_of_a_tool_is_an_answer() {
        let call = r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#;
        assert!(read(&settings(&[]), &[(1, call), (2, END), (3, DONE)]).is_ok());
    }

    #[test]
    fn document_without_text_is_a_failure() {
        let text = |body: &str| text_of_document(&serde_json::from_str(body).unwrap());
        let message = r#"{"choices":[{"message":{"content":"yes"}}]}"#;
        assert_eq!(text(message), Ok("yes".to_owned()));
        assert_eq!(
            text(r#"{"choices":[{"text":"yes"}]}"#),
            Ok("yes".to_owned())
        );
        assert_eq!(
            text(r#"{"choices":[{"text":" "}]}"#),
            Err(AnswerFailure::EmptyText)
        );
        assert_eq!(text("{}").unwrap_err().kind(), "invalid answer");
        assert_eq!(
            text(r#"{"error":"no"}"#).unwrap_err().kind(),
            "error in the answer"
        );
    }
}

//! Asks model servers over plain HTTP.

use std::{fs, path::Path, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    color::Color,
    config::Settings,
    ports::{Probe, Target, WorldError},
    release::Health,
};

/// Asks over HTTP; one client, so that connections are kept.
pub(super) struct HttpProbe {
    client: reqwest::Client,
    blue: String,
    green: String,
    control: String,
    public: String,
    health_path: String,
    predict_path: String,
    inputs: Vec<String>,
}

impl HttpProbe {
    pub(super) fn new(settings: &Settings, inputs: Vec<String>) -> Result<Self, WorldError> {
        Ok(Self {
            client: client(settings.probe.timeout)?,
            blue: settings.blue.url.clone(),
            green: settings.green.url.clone(),
            control: settings.router.control.clone(),
            public: settings.router.url.clone(),
            health_path: settings.probe.health_path.clone(),
            predict_path: settings.probe.predict_path.clone(),
            inputs,
        })
    }

    fn base(&self, target: Target) -> String {
        match target {
            Target::Server(Color::Blue) => self.blue.clone(),
            Target::Server(Color::Green) => self.green.clone(),
            Target::ThroughRouter(color) => format!("{}/{color}", self.control),
            Target::Public => self.public.clone(),
        }
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn health(&self, target: Target) -> Result<Health, WorldError> {
        let url = format!("{}{}", self.base(target), self.health_path);
        let (status, body) = answer(self.client.get(&url))
            .await
            .map_err(|problem| WorldError(format!("GET {url} {problem}")))?;
        if status == 200 {
            // A server that answers 200 with another body is healthy and tells nothing of itself.
            Ok(read_health(
                &serde_json::from_str(&body).unwrap_or_default(),
            ))
        } else {
            Err(WorldError(format!(
                "GET {url} answered {status}{}",
                said(&body)
            )))
        }
    }

    async fn predict(&self, target: Target, number: usize) -> Result<(), WorldError> {
        let url = format!("{}{}", self.base(target), self.predict_path);
        let Some(input) = self.inputs.get(number % self.inputs.len().max(1)) else {
            return Err(WorldError("there are no test inputs".to_owned()));
        };
        let request = self
            .client
            .post(&url)
            .header("content-type", "application/json")
            .body(input.clone());
        let (status, body) = answer(request)
            .await
            .map_err(|problem| WorldError(format!("POST {url} {problem}")))?;
        if (200..300).contains(&status) {
            Ok(())
        } else {
            Err(WorldError(format!(
                "POST {url} answered {status}{}",
                said(&body)
            )))
        }
    }
}

/// A client whose every question ends within `timeout`.
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, WorldError> {
    // reqwest is built without a provider of its own, since ring builds in a fraction of the time.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        // What is asked is near: a proxy for the outside world would not reach it.
        .no_proxy()
        // A log-in page behind a redirect answers 200 and is nobody's health.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("deployer/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| WorldError(format!("cannot set up HTTP: {}", cause(&error))))
}

/// Takes each field by itself, so that one of another type does not hide the rest.
fn read_health(body: &Value) -> Health {
    let text = |name: &str| Some(body.get(name)?.as_str()?.to_owned());
    let count = |name: &str| body.get(name)?.as_u64();
    Health {
        model_name: text("model_name"),
        model_version: text("model_version"),
        model_digest: text("model_digest"),
        uptime_seconds: body.get("uptime_seconds").and_then(Value::as_f64),
        request_count: count("request_count"),
        error_count: count("error_count"),
    }
}

/// The innermost reason: "connection refused" rather than "error sending request".
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The status and the whole body; otherwise what went wrong, in words that follow a URL.
pub(super) async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, String), String> {
    let response = request
        .send()
        .await
        .map_err(|error| format!("failed: {}", cause(&error)))?;
    let status = response.status().as_u16();
    let body = response
        .text()
        .await
        .map_err(|error| format!("answered {status}, then failed: {}", cause(&error)))?;
    Ok((status, body))
}

/// What a server said, behind a colon; nothing when it said nothing.
fn said(body: &str) -> String {
    const ENOUGH: usize = 200;
    let body = body.trim();
    match body.char_indices().nth(ENOUGH) {
        _ if body.is_empty() => String::new(),
        Some((end, _)) => format!(": {} ...", &body[..end]),
        None => format!(": {body}"),
    }
}

/// Reads the bodies of test requests: one JSON object a line, each with an `input`.
pub fn read_inputs(path: &Path) -> Result<Vec<String>, WorldError> {
    #[derive(Deserialize)]
    struct Line {
        input: Value,
    }

    let text = fs::read_to_string(path).map_err(|error| {
        WorldError(format!(
            "cannot read the test inputs (probe.inputs) {}: {error}",
            path.display()
        ))
    })?;
    let inputs: Vec<String> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str::<Line>(line)
                .map(|line| line.input.to_string())
                .map_err(|error| {
                    WorldError(format!(
                        "{}, line {}: expected an object with an \"input\": {error}",
                        path.display(),
                        index + 1
                    ))
                })
        })
        .collect::<Result<_, _>>()?;
    if inputs.is_empty() {
        return Err(WorldError(format!(
            "{} holds no test inputs",
            path.display()
        )));
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inputs.jsonl");
        fs::write(&path, text).unwrap();
        read_inputs(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn each_input_becomes_a_body() {
        let inputs =
            read("{\"input\":{\"text\":\"good\"},\"expect\":\"positive\"}\n\n{\"input\":[1]}\n")
                .unwrap();
        assert_eq!(inputs, ["{\"text\":\"good\"}", "[1]"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = read("{\"input\":1}\n{\"text\":\"good\"}\n").unwrap_err();
        assert!(error.contains("inputs.jsonl, line 2"), "{error}");
        assert!(error.contains("input"), "{error}");
    }

    #[test]
    fn an_empty_file_is_an_error() {
        assert!(read("\n").unwrap_err().ends_with("holds no test inputs"));
    }

    #[test]
    fn a_field_of_another_type_does_not_hide_the_version() {
        let body = serde_json::json!({"model_version": "v1", "request_count": 12.5, "uptime_seconds": "3s"});
        let health = read_health(&body);
        assert_eq!(health.model_version.as_deref(), Some("v1"));
        assert_eq!((health.request_count, health.uptime_seconds), (None, None));
    }

    #[test]
    fn long_answers_are_shortened_between_characters() {
        assert_eq!(said(&"ä".repeat(201)), format!(": {} ...", "ä".repeat(200)));
        assert_eq!(said(" short\n"), ": short");
        assert_eq!(said(" \n"), "");
    }
}

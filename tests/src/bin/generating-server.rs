//! A server with `OpenAI`'s interface, which generates numbered words. A release's version selects its fault.

use std::{
    convert::Infallible,
    env, io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse as _,
    routing::{get, post},
};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

/// Milliseconds to the first token, and between tokens.
const FIRST: u64 = 40;
const GAP: u64 = 4;
/// The tokens after which a stream breaks off, or reports an error.
const BEFORE_FAULT: u64 = 3;

/// A body whose parts come from a task.
struct Parts(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let part = self.0.poll_recv(context);
        part.map(|part| part.map(|part| part.map(Frame::data)))
    }
}

/// What one answer does.
#[derive(Clone)]
struct Answer {
    version: String,
    /// The fault; the version unless the fault is only for clients, and the request did not come through the router.
    fault: String,
    chat: bool,
    tokens: u64,
    gap: Duration,
    first: Duration,
}

impl Answer {
    fn new(version: &str, chat: bool, headers: &HeaderMap, request: &Value) -> Self {
        let routed = headers.contains_key("x-forwarded-for");
        let fault = match version.strip_suffix("-for-clients") {
            Some(fault) if routed => fault,
            Some(_) => "",
            None => version,
        };
        let slower = |name, times| if fault == name { times } else { 1 };
        let gap = request["gap"].as_u64().unwrap_or(GAP);
        Self {
            version: version.to_owned(),
            fault: fault.to_owned(),
            chat,
            tokens: request["max_tokens"].as_u64().unwrap_or(8),
            first: Duration::from_millis(FIRST * slower("slow-first", 2)),
            gap: Duration::from_millis(gap * slower("long-gaps", 3)),
        }
    }

    fn word(&self, number: u64) -> String {
        if self.fault == "empty" {
            String::new()
        } else {
            format!("word{number} ")
        }
    }

    fn event(&self, text: &str, finish_reason: Option<&str>) -> Bytes {
        let choice = if self.chat {
            json!({"index": 0, "delta": {"content": text}, "finish_reason": finish_reason})
        } else {
            json!({"index": 0, "text": text, "finish_reason": finish_reason})
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let sent = now.unwrap_or_default().as_micros();
        let data = json!({"choices": [choice], "sent": u64::try_from(sent).unwrap_or(0)});
        Bytes::from(format!("data: {data}\n\n"))
    }

    /// Sends the events. Fails if the other side has gone.
    async fn send(self, parts: mpsc::Sender<io::Result<Bytes>>) -> anyhow::Result<()> {
        sleep(self.first).await;
        let endless = self.fault == "never-ends";
        let mut number = 0;
        while endless || number < self.tokens {
            if number == BEFORE_FAULT && self.fault == "breaks" {
                return Ok(parts.send(Err(io::Error::other("a fault"))).await?);
            }
            if number == BEFORE_FAULT && self.fault == "error-event" {
                let error =
                    "data: {\"error\":{\"message\":\"the engine failed\"}}\n\ndata: [DONE]\n\n";
                return Ok(parts.send(Ok(Bytes::from(error))).await?);
            }
            parts.send(Ok(self.event(&self.word(number), None))).await?;
            sleep(self.gap).await;
            number += 1;
        }
        parts.send(Ok(self.event("", Some("length")))).await?;
        parts.send(Ok(Bytes::from("data: [DONE]\n\n"))).await?;
        Ok(())
    }

    fn response(self, streamed: bool) -> Response<Body> {
        let version = self.version.clone();
        let mut response = if streamed && self.fault != "ignores-stream" {
            let (sender, receiver) = mpsc::channel(1);
            // The task ends with the request: sending fails when the client has gone.
            tokio::spawn(self.send(sender));
            let mut response = Response::new(Body::new(Parts(receiver)));
            let kind = header::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        } else {
            let text: String = (0..self.tokens).map(|number| self.word(number)).collect();
            let choice = if self.chat {
                json!({"message": {"content": text}, "finish_reason": "length"})
            } else {
                json!({"text": text, "finish_reason": "length"})
            };
            Json(json!({"choices": [choice]})).into_response()
        };
        if let Ok(version) = version.parse() {
            response.headers_mut().insert("x-model-version", version);
        }
        response
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let variable = |name| env::var(name).with_context(|| format!("{name} is not set"));
    let version = variable("MODEL_VERSION")?;
    let port: u16 = variable("PORT")?.parse()?;
    let health = json!({"status": "ok", "model_version": version});
    let answer = |chat: bool| {
        let version = version.clone();
        post(
            async move |headers: HeaderMap, Json(request): Json<Value>| {
                let question = if chat { "messages" } else { "prompt" };
                if request[question].is_null() {
                    return StatusCode::UNPROCESSABLE_ENTITY.into_response();
                }
                let answer = Answer::new(&version, chat, &headers, &request);
                answer.response(request["stream"] == true)
            },
        )
    };
    let router = Router::new()
        .route(
            "/health",
            get(async move || Ok::<_, Infallible>(Json(health))),
        )
        .route("/v1/chat/completions", answer(true))
        .route("/v1/completions", answer(false));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = axum::serve(listener, router) => ended?,
        _ = stop.recv() => {}
    }
    Ok(())
}

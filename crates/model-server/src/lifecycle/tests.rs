//! What clients see of engines that hang, panic or end: a real port, an engine of the test's own.

use std::{
    fs,
    num::NonZeroUsize,
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
};

use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::EngineError,
    settings::LogFormat,
    text::{ModelConfig, TextTokenizer, TokenIds},
    worker::Classifier,
};

/// Does what the test says, call by call.
struct ScriptedEngine<F>(F);

impl<F> Engine for ScriptedEngine<F>
where
    F: FnMut() -> Result<Vec<f32>, EngineError> + Send + 'static,
{
    fn infer(&mut self, _: TokenIds) -> Result<Vec<f32>, EngineError> {
        (self.0)()
    }
}

const POSITIVE: [f32; 2] = [-1.0, 1.0];

/// A server with one worker whose engine is the test's.
struct Server {
    url: String,
    client: Client,
    state: Arc<ServerState>,
    _workers: Workers,
    connections: task::JoinHandle<io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.connections.abort();
    }
}

impl Server {
    fn start(
        infer: impl FnMut() -> Result<Vec<f32>, EngineError> + Send + 'static,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        // The client wants one even where nothing is encrypted; only the first call has to succeed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/sentiment/v1");
        let tokenizer = fs::read(release.join("tokenizer.json")).unwrap();
        let config = br#"{"id2label": {"0": "negative", "1": "positive"}}"#;
        let loaded = Loaded {
            digest: "0".repeat(64),
            classifier: Arc::new(Classifier {
                tokenizer: TextTokenizer::parse(&tokenizer, 512).unwrap(),
                labels: ModelConfig::parse(config).unwrap().labels,
            }),
            engines: vec![ScriptedEngine(infer)],
        };
        let mut settings = Settings {
            model_name: "sentiment".to_owned(),
            model_version: "scripted".to_owned(),
            model_root: "models".into(),
            address: ([127, 0, 0, 1], 0).into(),
            inference_threads: NonZeroUsize::MIN,
            queue_capacity: NonZeroUsize::MIN,
            max_body_bytes: 1024,
            request_timeout: Duration::from_secs(30),
            grace: Duration::ZERO,
            hard_stop: Duration::from_secs(1),
            log_format: LogFormat::Plain,
        };
        change(&mut settings);
        let state = Arc::new(ServerState::new(&settings, Instant::now()));
        let workers = put_to_work(&state, &settings, loaded).unwrap();
        assert!(state.phase.advance(Phase::Ready));
        let listener = bind(settings.address).unwrap();
        Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            client: Client::new(),
            connections: tokio::spawn(
                axum::serve(listener, http::router(Arc::clone(&state))).into_future(),
            ),
            state,
            _workers: workers,
        }
    }

    async fn predict(&self) -> Response {
        let request = self.client.post(format!("{}/predict", self.url));
        let sent = request.json(&json!({"text": "a fine film"})).send();
        time::timeout(Duration::from_secs(10), sent)
            .await
            .expect("an answer within 10 s")
            .unwrap()
    }

    async fn health(&self) -> (u16, Value) {
        let response = self.client.get(format!("{}/health", self.url)).send();
        let response = response.await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

/// An engine that tells when it begins, and answers when it is told to.
fn gate() -> (
    impl FnMut() -> Result<Vec<f32>, EngineError> + Send + 'static,
    tokio::sync::mpsc::UnboundedReceiver<()>,
    Sender<()>,
) {
    let (call, calls) = tokio::sync::mpsc::unbounded_channel();
    let (open, opened): (Sender<()>, Receiver<()>) = channel();
    let infer = move || {
        let _ = call.send(());
        // A test that ends drops its side; the worker then ends with it.
        let _ = opened.recv();
        Ok(POSITIVE.to_vec())
    };
    (infer, calls, open)
}

async fn error_of(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_prediction_that_takes_too_long_is_a_timeout_and_an_error() {
    let (infer, _calls, _open) = gate();
    let server = Server::start(infer, |it| it.request_timeout = Duration::from_millis(50));
    let response = server.predict().await;
    assert_eq!(response.status(), 504);
    assert_eq!(error_of(response).await, "no prediction within 50ms");
    let (status, health) = server.health().await;
    assert_eq!((status, &health["error_count"]), (200, &json!(1)));
}

#[tokio::test]
async fn a_full_queue_tells_the_client_when_to_come_back() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |_| {});
    let first = async {
        assert_eq!(server.predict().await.status(), 200);
    };
    let others = async {
        calls.recv().await.unwrap();
        // One text is being answered and one may wait: of two more, one is turned away.
        let (waiting, turned_away) = {
            let mut one = Box::pin(server.predict());
            let mut other = Box::pin(server.predict());
            tokio::select! {
                response = &mut one => (other, response),
                response = &mut other => (one, response),
            }
        };
        assert_eq!(turned_away.status(), 429);
        assert_eq!(turned_away.headers()["retry-after"], "1");
        open.send(()).unwrap();
        open.send(()).unwrap();
        assert_eq!(waiting.await.status(), 200);
    };
    tokio::join!(first, others);
    let (_, health) = server.health().await;
    assert_eq!(
        (&health["request_count"], &health["error_count"]),
        (&json!(3), &json!(0))
    );
}

#[tokio::test]
async fn a_panic_fails_one_request_and_the_next_is_answered() {
    let mut calls = 0;
    let infer = move || {
        calls += 1;
        assert_ne!(calls, 1, "as planned");
        Ok(POSITIVE.to_vec())
    };
    let server = Server::start(infer, |_| {});
    let response = server.predict().await;
    assert_eq!(response.status(), 500);
    let error = error_of(response).await;
    assert!(error.contains("as planned"), "{error}");
    let response = server.predict().await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["prediction"], "positive");
    let (status, health) = server.health().await;
    assert_eq!((status, &health["error_rate"]), (200, &json!(0.5)));
}

#[tokio::test]
async fn an_engine_that_only_panics_turns_the_server_unhealthy_and_keeps_no_client_waiting() {
    let server = Server::start(|| panic!("for good"), |_| {});
    assert_eq!(server.predict().await.status(), 500);
    // Whether the next request still finds the worker or not, nobody is left waiting.
    let next = server.predict().await.status().as_u16();
    assert_eq!(next, 503);
    let (status, health) = server.health().await;
    assert_eq!(status, 503);
    let reason = health["reason"].as_str().unwrap();
    assert!(
        reason.contains("worker 0 ended") && reason.contains("for good"),
        "{reason}"
    );
    assert!(matches!(server.state.phase.get(), Phase::Unfit { .. }));
}

#[tokio::test]
async fn logits_that_do_not_match_the_labels_are_the_servers_fault() {
    let server = Server::start(|| Ok(vec![1.0]), |_| {});
    let response = server.predict().await;
    assert_eq!(response.status(), 500);
    assert!(
        error_of(response)
            .await
            .contains("1 logits; config.json names 2")
    );
}

#[tokio::test]
async fn a_text_whose_client_has_left_never_reaches_the_engine() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.queue_capacity = NonZeroUsize::new(2).unwrap();
    });
    let queue = Arc::clone(&server.state.serving.get().unwrap().queue);
    let ask = || {
        let (answer, answered) = oneshot::channel();
        let text = "a fine film".to_owned();
        queue.push(crate::worker::Job { text, answer }).unwrap();
        answered
    };
    let first = ask();
    calls.recv().await.unwrap();
    drop(ask());
    let last = ask();
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert!(first.await.unwrap().is_ok() && last.await.unwrap().is_ok());
    calls.recv().await.unwrap();
    assert!(
        calls.try_recv().is_err(),
        "the engine was called a third time"
    );
}

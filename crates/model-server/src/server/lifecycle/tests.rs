//! What clients see of engines that hang, panic or end: a real port, an engine of the test's own.

use std::{
    fs,
    future::IntoFuture as _,
    num::NonZeroUsize,
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
};

use clap::Parser;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::*;
use crate::{
    backend::{
        engine::{Engine, EngineError, EngineTask, Parallelism},
        tensor::{Datatype, Elements, Signature, Tensor, TensorSpec},
    },
    config::arguments::ServeArguments,
    scheduler::{
        batching_policy::BatchingPolicy,
        inference_pool::ExecutionPlan,
        job::{Job, JobInput},
    },
    server::router,
    task::{ModelTask, classification::TextClassifier, model_config::ModelConfig, warm_up_inputs},
    tokenizer::text_tokenizer::TextTokenizer,
};

/// Does what the test says, call by call: from the number of texts to their logits.
struct ScriptedEngine<F>(F);

impl<F> Engine for ScriptedEngine<F>
where
    F: FnMut(usize) -> Result<Vec<f32>, EngineError> + Send + 'static,
{
    fn run(
        &mut self,
        inputs: &[Tensor],
        _: &[usize],
        _: Parallelism,
    ) -> Result<Vec<Tensor>, EngineError> {
        let texts = inputs[0].shape[0];
        let logits = (self.0)(texts)?;
        Ok(vec![Tensor {
            shape: vec![texts, logits.len() / texts],
            elements: Elements::Fp32(logits),
        }])
    }

    fn enter(&mut self, work: EngineTask<'_>) {
        work(self);
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
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
        infer: impl FnMut(usize) -> Result<Vec<f32>, EngineError> + Send + 'static,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        // The client wants one even where nothing is encrypted; only the first call has to succeed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let arguments = ["model-server", "--model-version=scripted", "--port=0"];
        let mut settings = Arguments::parse_from(arguments).serve.resolve().unwrap();
        settings.inference_workers = NonZeroUsize::MIN;
        settings.queue_capacity = NonZeroUsize::MIN;
        change(&mut settings);
        let state = Arc::new(ServerState::new(&settings, Instant::now()));
        let loaded = loaded(Box::new(ScriptedEngine(infer)));
        let workers = start_workers(&state, &settings, loaded).unwrap();
        assert!(state.phase.advance(Phase::Ready));
        let listener = bind(settings.address).unwrap();
        Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            client: Client::new(),
            connections: tokio::spawn(
                axum::serve(listener, router::router(Arc::clone(&state))).into_future(),
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

    /// Waits until the server says that it is not healthy, and returns its reason.
    async fn until_unfit(&self) -> String {
        loop {
            let (status, health) = self.health().await;
            if status == 503 {
                return health["reason"].as_str().unwrap().to_owned();
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn health(&self) -> (u16, Value) {
        let response = self.client.get(format!("{}/health", self.url)).send();
        let response = response.await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

/// A release of two labels whose engine is the test's.
fn loaded(engine: Box<dyn Engine>) -> Loaded {
    let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/sentiment/v1");
    let tokenizer = fs::read(release.join("tokenizer.json")).unwrap();
    let config = br#"{"id2label": {"0": "negative", "1": "positive"}}"#;
    let config = ModelConfig::parse(config).unwrap();
    let spec = |name: &str, datatype, last| TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: vec![None, last],
    };
    let signature = Signature {
        inputs: vec![spec("input_ids", Datatype::Int64, None)],
        outputs: vec![spec("logits", Datatype::Fp32, Some(2))],
    };
    let model = TextClassifier::new(
        &signature,
        TextTokenizer::parse(&tokenizer, 512).unwrap(),
        config.classes(None).unwrap(),
        config.padding,
    );
    let task = ModelTask::Text(Box::new(model.unwrap()));
    Loaded {
        digest: "0".repeat(64),
        plan: ExecutionPlan {
            self_test_inputs: Some(warm_up_inputs(&task, &signature).unwrap()),
            task,
            policy: BatchingPolicy {
                max_texts: 4,
                max_tokens: 1000,
                max_padding: 4,
            },
            parallel_is_faster: false,
            single_pass: Duration::from_secs(1),
        },
        signature,
        engines: vec![engine],
    }
}

/// From the number of texts to their logits.
type Infer = Box<dyn FnMut(usize) -> Result<Vec<f32>, EngineError> + Send>;

/// An engine that tells when it begins, and answers when it is told to.
fn gate() -> (Infer, tokio::sync::mpsc::UnboundedReceiver<()>, Sender<()>) {
    let (call, calls) = tokio::sync::mpsc::unbounded_channel();
    let (open, opened): (Sender<()>, Receiver<()>) = channel();
    let infer = move |texts: usize| {
        let _ = call.send(());
        // A test that ends drops its side; the worker then ends with it.
        let _ = opened.recv();
        Ok(POSITIVE.repeat(texts))
    };
    (Box::new(infer), calls, open)
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
    assert_eq!(server.state.metrics.counts().errors, 1);
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
    let infer = move |texts: usize| {
        calls += 1;
        assert_ne!(calls, 1, "as planned");
        Ok(POSITIVE.repeat(texts))
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
    let server = Server::start(|_| panic!("for good"), |_| {});
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
    let server = Server::start(|_| Ok(vec![1.0]), |_| {});
    let response = server.predict().await;
    assert_eq!(response.status(), 500);
    assert!(
        error_of(response)
            .await
            .contains("[1, 1] for 1 texts; config.json names 2 labels")
    );
}

#[tokio::test]
async fn an_engine_that_fails_every_pass_makes_the_server_unfit() {
    let broken = |_| Err(EngineError("out of order".to_owned()));
    let server = Server::start(broken, |_| {});
    assert_eq!(server.predict().await.status(), 500);
    let reason = server.until_unfit().await;
    assert!(reason.contains("out of order"), "{reason}");
}

#[tokio::test]
async fn an_engine_that_fails_one_pass_stays_at_work() {
    let mut calls = 0;
    let server = Server::start(
        move |texts| {
            calls += 1;
            match calls {
                1 => Err(EngineError("this once".to_owned())),
                _ => Ok(POSITIVE.repeat(texts)),
            }
        },
        |_| {},
    );
    assert_eq!(server.predict().await.status(), 500);
    assert_eq!(server.health().await.0, 200);
    assert_eq!(server.predict().await.status(), 200);
}

/// Sends tensors in place of a text.
async fn infer(server: &Server) -> Response {
    let path = format!("{}/v2/models/sentiment/infer", server.url);
    let input = json!({"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [2, 3]});
    let request = server.client.post(path).json(&json!({"inputs": [input]}));
    request.send().await.unwrap()
}

#[tokio::test]
async fn tensors_that_only_fail_themselves_are_the_clients_fault() {
    let mut calls = 0;
    let infer_tensors = move |texts: usize| {
        calls += 1;
        match calls {
            1 => panic!("not these numbers"),
            // The engine proves itself after each of the two.
            2 | 4 => Ok(POSITIVE.repeat(texts)),
            _ => Ok(vec![f32::NAN, 0.0]),
        }
    };
    let server = Server::start(infer_tensors, |_| {});
    let response = infer(&server).await;
    assert_eq!(response.status(), 400);
    assert!(error_of(response).await.contains("not these numbers"));
    let response = infer(&server).await;
    assert_eq!(response.status(), 400);
    assert!(error_of(response).await.contains("no finite numbers"));
    assert_eq!(server.health().await.0, 200);
}

#[tokio::test]
async fn tensors_are_not_blamed_for_a_broken_engine() {
    let server = Server::start(|_| Err(EngineError("out of order".to_owned())), |_| {});
    assert_eq!(infer(&server).await.status(), 500);
    server.until_unfit().await;
}

#[tokio::test]
async fn a_proof_that_does_not_end_is_noticed() {
    let (call, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let (open, opened) = channel::<()>();
    let mut first = true;
    let infer = move |texts: usize| {
        if std::mem::take(&mut first) {
            return Err(EngineError("hung up".to_owned()));
        }
        let _ = call.send(());
        let _ = opened.recv();
        Ok(POSITIVE.repeat(texts))
    };
    let server = Server::start(infer, |it| it.request_timeout = Duration::from_millis(20));
    assert_eq!(server.predict().await.status(), 504);
    calls.recv().await.unwrap();
    server.until_unfit().await;
    drop(open);
}

/// Puts a text into the server's queue, past HTTP.
fn push(server: &Server, within: Duration) -> oneshot::Receiver<crate::scheduler::job::Completion> {
    let (reply, completed) = oneshot::channel();
    let arrived = Instant::now();
    let job = Job {
        input: JobInput::Text("a fine film".to_owned()),
        reservation: None,
        arrived,
        deadline: arrived + within,
        reply,
    };
    let queue = &server.state.serving.get().unwrap().pool.queue;
    queue.push(std::iter::once(job)).unwrap();
    completed
}

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_text_whose_client_has_left_never_reaches_the_engine() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.queue_capacity = NonZeroUsize::new(2).unwrap();
    });
    let first = push(&server, LONG);
    calls.recv().await.unwrap();
    drop(push(&server, LONG));
    let last = push(&server, LONG);
    open.send(()).unwrap();
    open.send(()).unwrap();
    assert!(first.await.unwrap().result.is_ok() && last.await.unwrap().result.is_ok());
    calls.recv().await.unwrap();
    assert!(
        calls.try_recv().is_err(),
        "the engine was called a third time"
    );
}

#[tokio::test]
async fn a_text_whose_time_is_up_before_its_turn_never_reaches_the_engine() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.queue_capacity = NonZeroUsize::new(2).unwrap();
    });
    let first = push(&server, LONG);
    calls.recv().await.unwrap();
    let late = push(&server, Duration::from_nanos(1));
    open.send(()).unwrap();
    assert!(first.await.unwrap().result.is_ok());
    let answer = late.await;
    assert!(answer.is_err(), "dropped unanswered");
    assert!(calls.try_recv().is_err(), "the engine was called");
}

#[tokio::test]
async fn one_bad_text_does_not_fail_its_neighbors() {
    // All texts together fail, and so does the second of those that are then tried alone.
    let (first_call, first_called) = channel();
    let mut calls = 0;
    let mut wait: Option<Receiver<()>> = Some(first_called);
    let infer = move |texts: usize| {
        if let Some(wait) = wait.take() {
            let _ = wait.recv();
            return Ok(POSITIVE.repeat(texts));
        }
        calls += 1;
        if texts > 1 || calls == 3 {
            return Err(EngineError("as planned".to_owned()));
        }
        Ok(POSITIVE.repeat(texts))
    };
    let server = Server::start(infer, |it| {
        it.queue_capacity = NonZeroUsize::new(4).unwrap();
    });
    let busy = push(&server, LONG);
    until_taken(&server).await;
    let waiting: Vec<_> = (0..3).map(|_| push(&server, LONG)).collect();
    first_call.send(()).unwrap();
    assert!(busy.await.unwrap().result.is_ok());
    let mut outcomes = Vec::new();
    for answered in waiting {
        outcomes.push(answered.await.unwrap().result.is_ok());
    }
    assert_eq!(outcomes, [true, false, true]);
}

/// Waits until nothing waits any more: the worker took it.
async fn until_taken(server: &Server) {
    let queue = &server.state.serving.get().unwrap().pool.queue;
    while queue.depth() > 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_forward_pass_that_does_not_end_makes_the_server_unhealthy_until_it_ends() {
    let (infer, _calls, open) = gate();
    let server = Server::start(infer, |it| it.request_timeout = Duration::from_millis(20));
    assert_eq!(server.predict().await.status(), 504);
    loop {
        let (status, health) = server.health().await;
        if status == 503 {
            assert!(
                health["reason"].as_str().unwrap().contains("stuck"),
                "{health}"
            );
            break;
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    open.send(()).unwrap();
    while server.health().await.0 != 200 {
        time::sleep(Duration::from_millis(5)).await;
    }
}

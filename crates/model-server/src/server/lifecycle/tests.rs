//! Clients of a server whose engine hangs, panics, or fails.

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
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    backend::{
        engine::{Engine, EngineError, EngineTask, Parallelism},
        tensor::{Datatype, Elements, Signature, Tensor, TensorSpec},
    },
    config::ServeArguments,
    scheduler::{
        batching_policy::BatchingPolicy,
        inference_pool::ExecutionPlan,
        job::{Job, JobInput},
    },
    server::router,
    task::{ModelTask, model_config::ModelConfig, text_model::TextModel, warm_up_inputs},
    tokenizer::text_tokenizer::TextTokenizer,
};

/// An engine that calls a function of the test with the number of texts, which returns their logits.
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

/// A server with one worker and a scripted engine.
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
        // reqwest needs a TLS provider even for plain HTTP. Only the first call succeeds.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let arguments = ["model-server", "--model-version=scripted", "--port=0"];
        let mut settings = Arguments::parse_from(arguments).serve.resolve().unwrap();
        settings.engine.workers = Some(NonZeroUsize::MIN);
        settings.limits.queue_capacity = NonZeroUsize::MIN;
        change(&mut settings);
        let state = Arc::new(ServerState::new(&settings, Instant::now()));
        let loaded = loaded(Box::new(ScriptedEngine(infer)));
        let workers = start_workers(&state, &settings, loaded).unwrap();
        assert!(state.phase.advance(Phase::Ready));
        let listener = bind(settings.address.into()).unwrap();
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

    /// Sends predictions until one hangs in the engine. On a busy machine, earlier ones may expire in the queue.
    async fn predict_until_called(&self, calls: &mut UnboundedReceiver<()>) {
        while calls.try_recv().is_err() {
            assert_eq!(self.predict().await.status(), 504);
        }
    }

    /// Waits until the server is unhealthy, and returns the reason.
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

/// A release with two labels and a scripted engine.
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
    let tokenizer = TextTokenizer::parse(&tokenizer, 512).unwrap();
    let model = TextModel::new(&signature, tokenizer, &config);
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

/// An engine that signals each call, and returns when it is told to.
fn gate() -> (Infer, UnboundedReceiver<()>, Sender<()>) {
    let (call, calls) = unbounded_channel();
    let (open, opened): (Sender<()>, Receiver<()>) = channel();
    let infer = move |texts: usize| {
        let _ = call.send(());
        // At the end of a test the sender is dropped, and the worker ends.
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
async fn slow_prediction_gets_504_and_counts_as_error() {
    let (infer, _calls, _open) = gate();
    let server = Server::start(infer, |it| {
        it.limits.request_timeout = Duration::from_millis(50);
    });
    let response = server.predict().await;
    assert_eq!(response.status(), 504);
    assert_eq!(error_of(response).await, "no prediction within 50ms");
    assert_eq!(server.state.metrics.counts().errors, 1);
}

#[tokio::test]
async fn full_queue_gets_429_with_retry_after() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |_| {});
    let first = async {
        assert_eq!(server.predict().await.status(), 200);
    };
    let others = async {
        calls.recv().await.unwrap();
        // One text runs and one waits. Of two more, one is refused.
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
async fn panic_fails_one_request_only() {
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
async fn panicking_engine_makes_server_unhealthy_and_blocks_no_client() {
    let server = Server::start(|_| panic!("for good"), |_| {});
    assert_eq!(server.predict().await.status(), 500);
    // The request returns, whether or not it still reaches the worker.
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
async fn mismatched_logits_get_500() {
    let server = Server::start(|_| Ok(vec![1.0]), |_| {});
    let response = server.predict().await;
    assert_eq!(response.status(), 500);
    assert!(error_of(response).await.contains(
        "[1, 1] for 1 texts; expected floats of shape [1, 2], because config.json has 2 labels"
    ));
}

#[tokio::test]
async fn failing_engine_makes_server_unfit() {
    let broken = |_| Err(EngineError("out of order".to_owned()));
    let server = Server::start(broken, |_| {});
    assert_eq!(server.predict().await.status(), 500);
    let reason = server.until_unfit().await;
    assert!(reason.contains("out of order"), "{reason}");
}

#[tokio::test]
async fn engine_survives_a_single_failed_pass() {
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

#[tokio::test]
async fn nan_logits_make_server_unfit() {
    let server = Server::start(|texts| Ok([f32::NAN, 0.0].repeat(texts)), |_| {});
    let response = server.predict().await;
    assert_eq!(response.status(), 500);
    let error = error_of(response).await;
    assert!(
        error.contains("one finite number for each label"),
        "{error}"
    );
    let reason = time::timeout(Duration::from_secs(10), server.until_unfit()).await;
    let reason = reason.expect("the self-test fails too");
    assert!(reason.contains("NaN"), "{reason}");
}

#[tokio::test]
async fn single_text_without_finite_logits_gets_500() {
    let mut calls = 0;
    let infer = move |texts: usize| {
        calls += 1;
        let logits = if calls == 1 {
            [f32::INFINITY, 0.0]
        } else {
            POSITIVE
        };
        Ok(logits.repeat(texts))
    };
    let server = Server::start(infer, |_| {});
    assert_eq!(server.predict().await.status(), 500);
    assert_eq!(server.health().await.0, 200);
    assert_eq!(server.predict().await.status(), 200);
}

/// Sends tensors instead of a text.
async fn infer(server: &Server) -> Response {
    let path = format!("{}/v2/models/sentiment/infer", server.url);
    let input = json!({"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [2, 3]});
    let request = server.client.post(path).json(&json!({"inputs": [input]}));
    request.send().await.unwrap()
}

#[tokio::test]
async fn tensors_that_fail_a_working_engine_get_400() {
    let mut calls = 0;
    let infer_tensors = move |texts: usize| {
        calls += 1;
        match calls {
            1 => panic!("not these numbers"),
            // The engine passes its self-test after each failure.
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
    assert!(error_of(response).await.contains("NaN or infinity"));
    assert_eq!(server.health().await.0, 200);
}

#[tokio::test]
async fn tensors_of_a_broken_engine_get_500() {
    let server = Server::start(|_| Err(EngineError("out of order".to_owned())), |_| {});
    assert_eq!(infer(&server).await.status(), 500);
    server.until_unfit().await;
}

#[tokio::test]
async fn hanging_self_test_makes_server_unhealthy() {
    let (call, mut calls) = unbounded_channel();
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
    let server = Server::start(infer, |it| {
        it.limits.request_timeout = Duration::from_millis(20);
    });
    server.predict_until_called(&mut calls).await;
    server.until_unfit().await;
    drop(open);
}

/// Adds a text to the queue directly.
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
async fn abandoned_texts_never_reach_the_engine() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.limits.queue_capacity = NonZeroUsize::new(2).unwrap();
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
async fn expired_texts_never_reach_the_engine() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.limits.queue_capacity = NonZeroUsize::new(2).unwrap();
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
async fn bad_text_does_not_fail_its_batch() {
    // The whole batch fails, and then the second text alone.
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
        it.limits.queue_capacity = NonZeroUsize::new(4).unwrap();
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

/// Waits until the worker has taken all items.
async fn until_taken(server: &Server) {
    let queue = &server.state.serving.get().unwrap().pool.queue;
    while queue.depth() > 0 {
        time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn hanging_pass_makes_server_unhealthy_until_it_ends() {
    let (infer, mut calls, open) = gate();
    let server = Server::start(infer, |it| {
        it.limits.request_timeout = Duration::from_millis(20);
    });
    server.predict_until_called(&mut calls).await;
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

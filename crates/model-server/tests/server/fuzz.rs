//! Fuzzing with mutated bodies: each one is answered or refused, and none causes a server error.
//!
//! Most bodies go straight to the router, because a connection for each would be slow.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Router, body::Body, http::Request};
use http_body_util::BodyExt as _;
use model_server::EngineKind;
use reqwest::Client;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use tower::ServiceExt as _;

use crate::support::{Server, TIMEOUT, fixture_settings, settings, with_engine};

const CLIENTS: u64 = 8;

/// Valid bodies that are mutated: for the text models, and for the fixture model `floats`.
const TEXT_SEEDS: [(&str, &str); 6] = [
    ("/predict", r#"{"text": "a fine film", "top_k": 2}"#),
    ("/predict", r#"{"texts": ["a fine film", "an awful one"]}"#),
    (
        "infer",
        r#"{"id": "1", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["fine", "bad"]}]}"#,
    ),
    (
        "versions/VERSION/infer",
        r#"{"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [2, 7, 3]}, {"name": "attention_mask", "shape": [1, 3], "datatype": "INT64", "data": [[1, 1, 1]]}], "outputs": [{"name": "logits", "parameters": {"binary_data": true}}]}"#,
    ),
    (
        "infer",
        r#"{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}]}"#,
    ),
    (
        "infer",
        r#"{"parameters": {"binary_data_output": true}, "inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}}]}"#,
    ),
];
const FLOAT_SEEDS: [(&str, &str); 3] = [
    (
        "infer",
        r#"{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 7]}]}"#,
    ),
    (
        "versions/VERSION/infer",
        r#"{"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [[1, 2, 3, 7], [-1, 2, -3, 1.5]]}], "outputs": [{"name": "y", "parameters": {"binary_data": true}}, {"name": "largest"}]}"#,
    ),
    (
        "infer",
        r#"{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}"#,
    ),
];

/// Fragments of JSON that are invalid in most places. The first [`VALUES`] are whole values.
const FRAGMENTS: [&str; 24] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\u0000\"",
    "-1",
    "0",
    "1e308",
    "1.5",
    "18446744073709551615",
    "-9223372036854775808",
    "99999999",
    "[[[[[[1]]]]]]",
    "\"INT64\"",
    "\"FP16\"",
    "\"BYTES\"",
    "\"\\ud83d\\ude00\"",
    ",",
    ":",
    "{",
    "[",
    "\"",
    "\\",
];

/// How many [`FRAGMENTS`] are whole JSON values.
const VALUES: usize = 18;

/// A xorshift random number generator, seeded so that every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

/// How bodies reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    InProcess,
    Tcp,
}

/// A server, and the seeds for its model.
#[derive(Clone)]
struct Target {
    url: String,
    router: Router,
    model: String,
    version: String,
    seeds: &'static [(&'static str, &'static str)],
}

/// Returns a path, a mutated body, and the value of the header [`JSON_LENGTH`].
fn mutate(target: &Target, random: &mut Random) -> (String, Vec<u8>, Option<String>) {
    let (path, seed) = target.seeds[random.below(target.seeds.len())];
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        let path = path.replace("VERSION", &target.version);
        format!("/v2/models/{}/{path}", target.model)
    };
    let mut body = seed.as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(body.len().max(1)).min(body.len());
        match random.below(6) {
            0 => body.truncate(at),
            1 if at < body.len() => body[at] = u8::try_from(random.below(256)).unwrap(),
            2 if at < body.len() => {
                let end = (at + random.below(12)).min(body.len());
                body.drain(at..end);
            }
            3 => {
                let fragment = FRAGMENTS[random.below(FRAGMENTS.len())].bytes();
                body.splice(at..at, fragment);
            }
            // One value replaces another, so the body usually stays JSON.
            4 => {
                let value = FRAGMENTS[random.below(VALUES)];
                let text = String::from_utf8_lossy(&body).into_owned();
                let values = [
                    "1",
                    "2",
                    "3",
                    "7",
                    "\"fine\"",
                    "\"text\"",
                    "\"INT64\"",
                    "\"BYTES\"",
                    "true",
                ];
                let old = values[random.below(values.len())];
                body = text.replacen(old, value, 1).into_bytes();
            }
            _ => {
                let copy = body.clone();
                body.splice(at..at, copy.into_iter().take(random.below(64)));
            }
        }
    }
    let binary = path.starts_with("/v2") && random.below(2) == 0;
    let length = binary.then(|| {
        let json = body.len();
        body.extend((0..random.below(24)).map(|_| u8::try_from(random.below(256)).unwrap()));
        if random.below(8) == 0 {
            random.below(1000).to_string()
        } else {
            json.to_string()
        }
    });
    (path, body, length)
}

/// The header for the length of the JSON that precedes binary tensors in a body.
const JSON_LENGTH: &str = "inference-header-content-length";

impl Target {
    /// Sends a mutated body. Returns the status, and the exchange for the assertion message.
    async fn send(
        &self,
        transport: Transport,
        http: &Client,
        random: &mut Random,
    ) -> (u16, String) {
        let (path, body, length) = mutate(self, random);
        let request_text = format!("{path} {}", String::from_utf8_lossy(&body));
        let (status, response_body) = match transport {
            Transport::InProcess => {
                let mut request = Request::post(path).header("content-type", "application/json");
                if let Some(length) = length {
                    request = request.header(JSON_LENGTH, length);
                }
                let request = request.body(Body::from(body)).unwrap();
                let response = timeout(TIMEOUT, self.router.clone().oneshot(request)).await;
                let response = response.expect("the router responds in time").unwrap();
                let status = response.status().as_u16();
                let response_body = response.into_body().collect().await.unwrap();
                (status, response_body.to_bytes())
            }
            Transport::Tcp => {
                let request = http.post(format!("{}{path}", self.url));
                let mut request = request
                    .header("content-type", "application/json")
                    .timeout(TIMEOUT);
                if let Some(length) = length {
                    request = request.header(JSON_LENGTH, length);
                }
                let response = request.body(body).send().await.unwrap();
                let status = response.status().as_u16();
                (status, response.bytes().await.unwrap())
            }
        };
        (
            status,
            format!(
                "{request_text}: {status} {}",
                String::from_utf8_lossy(&response_body)
            ),
        )
    }
}

/// Sends `bodies` mutated bodies to two text models, and to the model `floats` on both engines.
///
/// Asserts that each response is 200, 400, or 413, and that no server counts an error.
async fn send_mutated_bodies(bodies: u64, transport: Transport) {
    let mut servers = Vec::new();
    let mut targets = Vec::new();
    for (mut settings, seeds) in [
        (settings("v1"), &TEXT_SEEDS[..]),
        (
            with_engine(settings("v2"), EngineKind::Onnxruntime),
            &TEXT_SEEDS[..],
        ),
        (
            fixture_settings("floats", EngineKind::Rten),
            &FLOAT_SEEDS[..],
        ),
        (
            fixture_settings("floats", EngineKind::Onnxruntime),
            &FLOAT_SEEDS[..],
        ),
    ] {
        settings.limits.queue_capacity = 4096.try_into().unwrap();
        let (model, version) = (settings.model.name.clone(), settings.model.version.clone());
        let (router_sender, router) = oneshot::channel();
        let server = Server::start_wrapped(settings, |router| {
            router_sender.send(router.clone()).unwrap();
            router
        });
        let server = server.await;
        targets.push(Target {
            url: server.client.url.clone(),
            router: router.await.unwrap(),
            model,
            version,
            seeds,
        });
        servers.push(server);
    }
    let succeeded = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (targets, succeeded) = (targets.clone(), Arc::clone(&succeeded));
        clients.spawn(async move {
            let http = Client::new();
            let mut random = Random(0x9e37_79b9 + client);
            for _ in 0..bodies / CLIENTS {
                let target = &targets[random.below(targets.len())];
                let (status, exchange) = target.send(transport, &http, &mut random).await;
                assert!(matches!(status, 200 | 400 | 413), "{exchange}");
                succeeded.fetch_add(u64::from(status == 200), Ordering::Relaxed);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    // A router holds its server's state, and `stop` waits until nothing holds it.
    drop(targets);
    // Without valid bodies the engines would not be fuzzed.
    let succeeded = succeeded.load(Ordering::Relaxed);
    assert!(succeeded > bodies / 50, "only {succeeded} bodies got 200");
    let mut requests = 0;
    for server in servers {
        let (status, health) = server.client.health().await;
        assert_eq!(status, 200, "{health}");
        assert_eq!(health["error_count"], 0);
        assert_eq!(
            (&health["queue_depth"], &health["in_flight"]),
            (&0.into(), &0.into())
        );
        requests += health["request_count"].as_u64().unwrap();
        server.stop().await.unwrap();
    }
    assert_eq!(requests, bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn router_answers_or_refuses_every_mutated_body() {
    send_mutated_bodies(100_000, Transport::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_answers_or_refuses_every_mutated_body() {
    send_mutated_bodies(10_000, Transport::Tcp).await;
}

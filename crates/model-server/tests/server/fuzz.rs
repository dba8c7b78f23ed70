//! Malformed bodies by the hundred thousand: the server refuses or answers each one, and none hurts it.
//!
//! Most of them go to the router in this process, where they cost no connection.

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

use crate::support::{BOUND, Server, fixture, settings, with};

const CLIENTS: u64 = 8;

/// Bodies as they should be, from which the others are made: for the models of texts, and for one of
/// floats.
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

/// Pieces that are legal somewhere, and wrong almost everywhere.
const PIECES: [&str; 24] = [
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

/// Numbers without a pattern, the same in every run (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

/// How bodies reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InProcess,
    OverTcp,
}

/// A server, and the bodies that are made for its model.
#[derive(Clone)]
struct Target {
    url: String,
    router: Router,
    model: String,
    version: String,
    seeds: &'static [(&'static str, &'static str)],
}

/// A body that once was as it should be.
fn mutated(target: &Target, chance: &mut Chance) -> (String, Vec<u8>, Option<String>) {
    let (path, seed) = target.seeds[chance.below(target.seeds.len())];
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        let path = path.replace("VERSION", &target.version);
        format!("/v2/models/{}/{path}", target.model)
    };
    let mut body = seed.as_bytes().to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(body.len().max(1)).min(body.len());
        match chance.below(6) {
            0 => body.truncate(at),
            1 if at < body.len() => body[at] = u8::try_from(chance.below(256)).unwrap(),
            2 if at < body.len() => {
                let end = (at + chance.below(12)).min(body.len());
                body.drain(at..end);
            }
            3 => {
                let piece = PIECES[chance.below(PIECES.len())].bytes();
                body.splice(at..at, piece);
            }
            // A value instead of a value: still JSON, most often.
            4 => {
                let value = PIECES[chance.below(18)];
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
                let old = values[chance.below(values.len())];
                body = text.replacen(old, value, 1).into_bytes();
            }
            _ => {
                let copy = body.clone();
                body.splice(at..at, copy.into_iter().take(chance.below(64)));
            }
        }
    }
    let binary = path.starts_with("/v2") && chance.below(2) == 0;
    let length = binary.then(|| {
        let json = body.len();
        body.extend((0..chance.below(24)).map(|_| u8::try_from(chance.below(256)).unwrap()));
        if chance.below(8) == 0 {
            chance.below(1000).to_string()
        } else {
            json.to_string()
        }
    });
    (path, body, length)
}

/// The header by which a request says where the JSON in its body ends.
const JSON_LENGTH: &str = "inference-header-content-length";

impl Target {
    /// Sends a body; the status and what was answered.
    async fn send(&self, way: Way, http: &Client, chance: &mut Chance) -> (u16, String) {
        let (path, body, length) = mutated(self, chance);
        let sent = format!("{path} {}", String::from_utf8_lossy(&body));
        let (status, answer) = match way {
            Way::InProcess => {
                let mut request = Request::post(path).header("content-type", "application/json");
                if let Some(length) = length {
                    request = request.header(JSON_LENGTH, length);
                }
                let request = request.body(Body::from(body)).unwrap();
                let response = timeout(BOUND, self.router.clone().oneshot(request)).await;
                let response = response.expect("an answer in time").unwrap();
                let status = response.status().as_u16();
                let answer = response.into_body().collect().await.unwrap();
                (status, answer.to_bytes())
            }
            Way::OverTcp => {
                let request = http.post(format!("{}{path}", self.url));
                let mut request = request
                    .header("content-type", "application/json")
                    .timeout(BOUND);
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
            format!("{sent}: {status} {}", String::from_utf8_lossy(&answer)),
        )
    }
}

/// Sends so many bodies to two engines and three models. Each one is answered with 200, 400, or 413, and
/// no server counts an error of its own.
async fn send_malformed_bodies(bodies: u64, way: Way) {
    let mut servers = Vec::new();
    let mut targets = Vec::new();
    for (mut settings, seeds) in [
        (settings("v1"), &TEXT_SEEDS[..]),
        (
            with(settings("v2"), EngineKind::Onnxruntime),
            &TEXT_SEEDS[..],
        ),
        (fixture("floats", EngineKind::Rten), &FLOAT_SEEDS[..]),
        (fixture("floats", EngineKind::Onnxruntime), &FLOAT_SEEDS[..]),
    ] {
        settings.queue_capacity = 4096.try_into().unwrap();
        let (model, version) = (settings.model_name.clone(), settings.model_version.clone());
        let (hand_over, router) = oneshot::channel();
        let server = Server::wrapped(settings, |router| {
            hand_over.send(router.clone()).unwrap();
            router
        });
        let server = server.await;
        targets.push(Target {
            url: server.ask.url.clone(),
            router: router.await.unwrap(),
            model,
            version,
            seeds,
        });
        servers.push(server);
    }
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (targets, answered) = (targets.clone(), Arc::clone(&answered));
        clients.spawn(async move {
            let http = Client::new();
            let mut chance = Chance(0x9e37_79b9 + client);
            for _ in 0..bodies / CLIENTS {
                let target = &targets[chance.below(targets.len())];
                let (status, exchange) = target.send(way, &http, &mut chance).await;
                assert!(matches!(status, 200 | 400 | 413), "{exchange}");
                answered.fetch_add(u64::from(status == 200), Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    // A router keeps its server's state; `stop` waits for it.
    drop(targets);
    // Bodies that are all unreadable would prove little.
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > bodies / 50, "{answered} were answered");
    let mut asked = 0;
    for server in servers {
        let (status, health) = server.ask.health().await;
        assert_eq!(status, 200, "{health}");
        assert_eq!(health["error_count"], 0);
        assert_eq!(
            (&health["queue_depth"], &health["in_flight"]),
            (&0.into(), &0.into())
        );
        asked += health["request_count"].as_u64().unwrap();
        server.stop().await.unwrap();
    }
    assert_eq!(asked, bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn router_refuses_or_answers_every_malformed_body() {
    send_malformed_bodies(100_000, Way::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_refuses_or_answers_every_malformed_body_over_tcp() {
    send_malformed_bodies(10_000, Way::OverTcp).await;
}

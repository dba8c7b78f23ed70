//! A hundred thousand bodies that nobody meant: none of them is the server's fault, and none hurts it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use reqwest::Client;
use tokio::task::JoinSet;

use crate::support::{Server, settings};

const BODIES: u64 = 100_000;
const CLIENTS: u64 = 8;

/// Bodies as they should be, from which the others are made.
const SEEDS: [(&str, &str); 6] = [
    ("/predict", r#"{"text": "a fine film", "top_k": 2}"#),
    ("/predict", r#"{"texts": ["a fine film", "an awful one"]}"#),
    (
        "/v2/models/sentiment/infer",
        r#"{"id": "1", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["fine", "bad"]}]}"#,
    ),
    (
        "/v2/models/sentiment/versions/v1/infer",
        r#"{"inputs": [{"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [2, 7, 3]}, {"name": "attention_mask", "shape": [1, 3], "datatype": "INT64", "data": [[1, 1, 1]]}], "outputs": [{"name": "logits", "parameters": {"binary_data": true}}]}"#,
    ),
    (
        "/v2/models/sentiment/infer",
        r#"{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}]}"#,
    ),
    (
        "/v2/models/sentiment/infer",
        r#"{"parameters": {"binary_data_output": true}, "inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "UINT8", "parameters": {"binary_data_size": 2}}]}"#,
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

/// A body that once was as it should be.
fn mutated(chance: &mut Chance) -> (&'static str, Vec<u8>, Option<String>) {
    let (path, seed) = SEEDS[chance.below(SEEDS.len())];
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_wrong_bodies_are_refused_or_answered_and_nothing_else() {
    let mut settings = settings("v1");
    settings.queue_capacity = 4096.try_into().unwrap();
    let server = Server::start(settings).await;
    let answered = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (url, answered) = (server.ask.url.clone(), Arc::clone(&answered));
        clients.spawn(async move {
            let http = Client::new();
            let mut chance = Chance(0x9e37_79b9 + client);
            for _ in 0..BODIES / CLIENTS {
                let (path, body, length) = mutated(&mut chance);
                let mut request = http
                    .post(format!("{url}{path}"))
                    .header("content-type", "application/json")
                    .timeout(crate::support::BOUND);
                if let Some(length) = length {
                    request = request.header("inference-header-content-length", length);
                }
                let response = request.body(body.clone()).send().await.unwrap();
                let status = response.status().as_u16();
                assert!(
                    matches!(status, 200 | 400 | 413),
                    "{path} {}: {status} {}",
                    String::from_utf8_lossy(&body),
                    response.text().await.unwrap_or_default()
                );
                response.bytes().await.unwrap();
                if status == 200 {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    // Bodies that nobody could ever read would prove little.
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered > BODIES / 50, "{answered} were answered");
    let (status, health) = server.ask.health().await;
    assert_eq!(status, 200);
    assert_eq!(health["request_count"], BODIES);
    assert_eq!(health["error_count"], 0);
    assert_eq!(
        (&health["queue_depth"], &health["in_flight"]),
        (&0.into(), &0.into())
    );
    server.stop().await.unwrap();
}

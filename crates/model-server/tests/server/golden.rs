//! The accuracy of both releases on the golden set, over HTTP.

use serde::Deserialize;
use serde_json::Value;

use crate::support::{Server, settings, shipped_models};

#[derive(Deserialize)]
struct Golden {
    input: Input,
    expect: String,
}

#[derive(Deserialize)]
struct Input {
    text: String,
}

/// Returns the share of golden texts that a release labels as expected, from 0 to 1.
async fn accuracy(version: &str) -> f64 {
    let lines = std::fs::read_to_string(shipped_models().join("sentiment/golden.jsonl")).unwrap();
    let server = Server::start(settings(version)).await;
    let (mut correct, mut total) = (0_u32, 0_u32);
    for line in lines.lines() {
        let golden: Golden = serde_json::from_str(line).unwrap();
        let response: Value = server
            .client
            .predict(&golden.input.text)
            .await
            .json()
            .await
            .unwrap();
        correct += u32::from(response["prediction"] == golden.expect.as_str());
        total += 1;
    }
    server.stop().await.unwrap();
    f64::from(correct) / f64::from(total)
}

#[tokio::test]
async fn golden_accuracy_meets_minimum_and_holds_in_v2() {
    let (first, second) = (accuracy("v1").await, accuracy("v2").await);
    assert!(first >= 0.72, "v1: {first}");
    assert!(second >= first, "v1: {first}, v2: {second}");
}

//! The golden texts, over HTTP: both releases are as good as their model cards say.

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

/// The share of golden texts that a release answers as expected, from 0 to 1.
async fn accuracy(version: &str) -> f64 {
    let lines = std::fs::read_to_string(shipped_models().join("sentiment/golden.jsonl")).unwrap();
    let server = Server::start(settings(version)).await;
    let (mut right, mut all) = (0_u32, 0_u32);
    for line in lines.lines() {
        let golden: Golden = serde_json::from_str(line).unwrap();
        let answer: Value = server
            .ask
            .predict(&golden.input.text)
            .await
            .json()
            .await
            .unwrap();
        right += u32::from(answer["prediction"] == golden.expect.as_str());
        all += 1;
    }
    server.stop().await.unwrap();
    f64::from(right) / f64::from(all)
}

#[tokio::test]
async fn both_releases_are_as_good_as_they_say_and_the_second_is_no_worse() {
    let (first, second) = (accuracy("v1").await, accuracy("v2").await);
    assert!(first >= 0.72, "v1: {first}");
    assert!(second >= first, "v1: {first}, v2: {second}");
}

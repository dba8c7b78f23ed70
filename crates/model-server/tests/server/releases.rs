//! Releases other than the shipped ones, made of their parts, and what can be asked of them.

use std::fs;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Server, settings, shipped_models};

/// A server of release v1 without the files that `change` removes or rewrites.
async fn server_of(change: impl FnOnce(&std::path::Path)) -> (Server, TempDir) {
    let root = tempfile::tempdir().unwrap();
    let release = root.path().join("sentiment/v1");
    fs::create_dir_all(&release).unwrap();
    for name in ["config.json", "model.onnx", "tokenizer.json"] {
        let shipped = shipped_models().join("sentiment/v1").join(name);
        fs::copy(shipped, release.join(name)).unwrap();
    }
    change(&release);
    let mut settings = settings("v1");
    settings.model_root = root.path().to_owned();
    (Server::start(settings).await, root)
}

async fn post(
    server: &Server,
    path: &str,
    headers: &[(&'static str, &str)],
    body: Value,
) -> (u16, Value) {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.insert(*name, value.parse().unwrap());
    }
    let request = server.ask.client.post(format!("{}{path}", server.ask.url));
    let response = request.headers(all).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn ids(name: &str, numbers: &Value, shape: &Value) -> Value {
    json!({"name": name, "datatype": "INT64", "shape": shape, "data": numbers})
}

#[tokio::test]
async fn a_graph_alone_is_served_by_the_open_inference_protocol() {
    let (server, _root) = server_of(|release| {
        fs::remove_file(release.join("config.json")).unwrap();
        fs::remove_file(release.join("tokenizer.json")).unwrap();
    })
    .await;
    let (status, answer) = post(&server, "/predict", &[], json!({"text": "fine"})).await;
    assert_eq!(status, 404);
    assert!(
        answer["error"].as_str().unwrap().contains("takes tensors"),
        "{answer}"
    );

    let metadata = server
        .ask
        .client
        .get(format!("{}/v2/models/sentiment", server.ask.url));
    let metadata: Value = metadata.send().await.unwrap().json().await.unwrap();
    let names: Vec<_> = metadata["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| input["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["input_ids", "attention_mask"]);

    let infer = "/v2/models/sentiment/infer";
    let two = json!({"inputs": [
        ids("input_ids", &json!([[2, 7, 3], [2, 9, 3]]), &json!([2, 3])),
        ids("attention_mask", &json!([1, 1, 1, 1, 1, 1]), &json!([2, 3])),
    ]});
    let (status, answer) = post(&server, infer, &[], two).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["outputs"][0]["name"], "logits");
    assert_eq!(answer["outputs"][0]["shape"], json!([2, 2]));

    for (inputs, words) in [
        (
            json!([ids("input_ids", &json!([2, 3]), &json!([1, 2]))]),
            "\"attention_mask\" is missing",
        ),
        (
            json!([
                ids("input_ids", &json!([2, 3]), &json!([2])),
                ids("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "shape is [2]; expected [-1, -1]",
        ),
        (
            json!([
                ids("input_ids", &json!([2, 3, 4]), &json!([1, 2])),
                ids("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "does not hold the 3 elements",
        ),
        // Within the rules of the protocol, but no token of the model.
        (
            json!([
                ids("input_ids", &json!([2, 999_999]), &json!([1, 2])),
                ids("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "the model cannot take these tensors",
        ),
    ] {
        let (status, answer) = post(&server, infer, &[], json!({"inputs": inputs})).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["error"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn labels_that_are_independent_of_each_other_have_scores_of_their_own() {
    let (server, _root) = server_of(|release| {
        let config = r#"{"id2label": {"0": "sad", "1": "glad"}, "problem_type": "multi_label_classification"}"#;
        fs::write(release.join("config.json"), config).unwrap();
    })
    .await;
    let body = json!({"text": "A wonderful film, I love it.", "top_k": 5});
    let (status, answer) = post(&server, "/predict", &[], body).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!("glad")));
    assert_eq!(answer["labels"], json!(["glad"]));
    let scores = answer["scores"].as_array().unwrap();
    assert_eq!(scores.len(), 2);
    assert_eq!(scores[0]["label"], "glad");
    assert_eq!(scores[0]["score"], answer["confidence"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn several_texts_are_answered_in_their_order_and_a_cut_one_says_so() {
    let mut settings = settings("v1");
    settings.max_body_bytes = 100_000;
    let server = Server::start(settings).await;
    let texts = ["wonderful ".repeat(1000), "awful".to_owned()];
    let body = json!({"texts": texts, "top_k": 1});
    let (status, answer) = post(&server, "/predict", &[], body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["model_version"], "v1");
    let predictions = answer["predictions"].as_array().unwrap();
    let told: Vec<_> = predictions
        .iter()
        .map(|it| {
            (
                it["prediction"].as_str().unwrap(),
                it["truncated"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("positive", true), ("negative", false)]);
    assert_eq!(predictions[0]["scores"].as_array().unwrap().len(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn more_texts_than_a_quarter_of_the_queue_are_refused_whole() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"texts": vec!["fine"; 17]});
    let (status, answer) = post(&server, "/predict", &[], body).await;
    assert_eq!(status, 400);
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("expected 1 to 16"),
        "{answer}"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_may_wait_less_long_than_the_server_would() {
    let server = Server::start(settings("v1")).await;
    let body = || json!({"text": "fine"});
    for (value, status) in [("5000", 200), ("999999999", 200), ("0", 400), ("soon", 400)] {
        let headers = [("x-request-timeout-ms", value)];
        let (seen, answer) = post(&server, "/predict", &headers, body()).await;
        assert_eq!(seen, status, "{value}: {answer}");
    }
    server.stop().await.unwrap();
}

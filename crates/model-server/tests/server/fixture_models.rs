//! Models of kinds that the shipped ones are not: made for these tests, with random weights.

use std::{collections::BTreeSet, fs, path::Path, time::SystemTime};

use model_server::EngineKind;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Asker, Server, fixture, settings, shipped_models};

const ENGINES: [EngineKind; 2] = [EngineKind::Rten, EngineKind::Onnxruntime];

async fn post(ask: &Asker, path: &str, body: &Value) -> Response {
    let request = ask.client.post(format!("{}{path}", ask.url));
    request.json(body).send().await.unwrap()
}

async fn answer(ask: &Asker, path: &str, body: &Value) -> (u16, Value) {
    let response = post(ask, path, body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

fn golden_texts() -> Vec<String> {
    let golden = fs::read_to_string(shipped_models().join("sentiment/golden.jsonl")).unwrap();
    let text = |line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["input"]["text"].as_str().unwrap().to_owned()
    };
    golden.lines().map(text).collect()
}

#[tokio::test]
async fn a_model_that_counts_positions_behind_its_filling_token_answers_long_texts() {
    for engine in ENGINES {
        let server = Server::start(fixture("quantizing", engine)).await;
        let body = json!({"text": "a wonderful film ".repeat(50), "top_k": 9});
        let (status, answer) = answer(&server.ask, "/predict", &body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["truncated"], true);
        let labels: BTreeSet<_> = answer["scores"]
            .as_array()
            .unwrap()
            .iter()
            .map(|score| score["label"].as_str().unwrap())
            .collect();
        assert!(labels.into_iter().eq(["LABEL_0", "LABEL_1", "LABEL_2"]));
        server.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_quantizes_as_it_goes_answers_each_text_as_if_it_were_alone() {
    for engine in ENGINES {
        let mut settings = fixture("quantizing", engine);
        settings.inference_threads = 2.try_into().unwrap();
        settings.inference_workers = 2.try_into().unwrap();
        let server = Server::start(settings).await;
        let texts = golden_texts();
        let mut alone = Vec::new();
        for text in &texts {
            let body = json!({"text": text, "top_k": 3});
            alone.push(answer(&server.ask, "/predict", &body).await.1);
        }
        let mut clients = JoinSet::new();
        for client in 0..32 {
            let (ask, texts, alone) = (server.ask.clone(), texts.clone(), alone.clone());
            clients.spawn(async move {
                for (text, alone) in texts.iter().zip(&alone).skip(client).step_by(8) {
                    let body = json!({"text": text, "top_k": 3});
                    let (status, together) = answer(&ask, "/predict", &body).await;
                    assert_eq!((status, &together), (200, alone), "{text}");
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn the_protocol_tells_which_texts_were_cut() {
    let server = Server::start(fixture("quantizing", EngineKind::Rten)).await;
    let long = "a wonderful film ".repeat(50);
    let body = json!({
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": [long, "fine"]}],
        "outputs": [{"name": "truncated"}],
    });
    let (status, answer) = answer(&server.ask, "/v2/models/quantizing/infer", &body).await;
    assert_eq!(status, 200, "{answer}");
    let expected =
        json!([{"name": "truncated", "datatype": "BOOL", "shape": [2], "data": [true, false]}]);
    assert_eq!(answer["outputs"], expected);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_graph_that_hides_its_lengths_is_served_and_its_numbers_are_the_clients() {
    let infer = "/v2/models/floats/infer";
    let body = |columns: &[f32], outputs: Value| {
        json!({
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, columns.len()], "data": columns}],
            "outputs": outputs,
        })
    };
    for engine in ENGINES {
        let server = Server::start(fixture("floats", engine)).await;
        let all = json!([{"name": "y"}, {"name": "largest"}]);
        let (status, told) = answer(
            &server.ask,
            infer,
            &body(&[1.0, 0.0, 1.0, 2.0], all.clone()),
        )
        .await;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["outputs"][1]["data"], json!([0]));

        // The logarithm of a negative number, which JSON cannot express.
        let negative = [-1.0, 0.0, 0.0, 0.0];
        let (status, told) = answer(&server.ask, infer, &body(&negative, all)).await;
        assert_eq!(status, 400, "{told}");
        assert!(
            told["error"]
                .as_str()
                .unwrap()
                .contains("no finite numbers")
        );
        let binary = json!([{"name": "y", "parameters": {"binary_data": true}}]);
        let response = post(&server.ask, infer, &body(&negative, binary)).await;
        assert_eq!(response.status(), 200);

        // What the graph cannot take.
        let (status, told) = answer(&server.ask, infer, &body(&[1.0], json!(null))).await;
        assert_eq!(status, 400, "{told}");
        let (status, health) = server.ask.health().await;
        assert_eq!((status, &health["error_count"]), (200, &json!(0)));
        server.stop().await.unwrap();
    }
}

/// Each file of a directory, with its size and the time of its last change.
fn files(directory: &Path) -> Vec<(String, u64, SystemTime)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, metadata.len(), metadata.modified().unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_release_is_only_read() {
    let root = tempfile::tempdir().unwrap();
    let release = root.path().join("sentiment/v1");
    fs::create_dir_all(&release).unwrap();
    for (name, ..) in files(&shipped_models().join("sentiment/v1")) {
        let copy = release.join(&name);
        fs::copy(shipped_models().join("sentiment/v1").join(&name), &copy).unwrap();
        let mut permissions = fs::metadata(&copy).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(copy, permissions).unwrap();
    }
    let mut permissions = fs::metadata(&release).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&release, permissions).unwrap();
    let before = files(&release);
    let mut settings = settings("v1");
    settings.model_root = root.path().to_owned();
    let server = Server::start(settings).await;
    assert_eq!(server.ask.predict("fine").await.status(), 200);
    server.stop().await.unwrap();
    // Whoever may do everything, as root may, is not kept out by permissions.
    assert_eq!(files(&release), before);
}

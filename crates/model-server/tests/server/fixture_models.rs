//! Models from `tests/data`, which differ in kind from the shipped ones.

use std::{collections::BTreeSet, fs, path::Path};

use model_server::EngineKind;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use tempfile::TempDir;

use crate::support::{Server, TestClient, fixture_settings, shipped_models, status_and_json};

const ENGINES: [EngineKind; 2] = [EngineKind::Rten, EngineKind::Onnxruntime];

async fn post(client: &TestClient, path: &str, body: &Value) -> Response {
    client.post(path).json(body).send().await.unwrap()
}

async fn post_for_json(client: &TestClient, path: &str, body: &Value) -> (u16, Value) {
    status_and_json(post(client, path, body).await).await
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
async fn roberta_positions_model_truncates_long_text() {
    for engine in ENGINES {
        let server = Server::start(fixture_settings("quantizing", engine)).await;
        let body = json!({"text": "a wonderful film ".repeat(50), "top_k": 9});
        let (status, response) = post_for_json(&server.client, "/predict", &body).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(response["truncated"], true);
        let labels: BTreeSet<_> = response["scores"]
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
async fn quantizing_model_scores_are_independent_of_concurrency() {
    for engine in ENGINES {
        let mut settings = fixture_settings("quantizing", engine);
        settings.engine.threads = Some(2.try_into().unwrap());
        settings.engine.workers = Some(2.try_into().unwrap());
        let server = Server::start(settings).await;
        let texts = golden_texts();
        let mut alone = Vec::new();
        for text in &texts {
            let body = json!({"text": text, "top_k": 3});
            alone.push(post_for_json(&server.client, "/predict", &body).await.1);
        }
        let mut clients = JoinSet::new();
        for offset in 0..32 {
            let (client, texts, alone) = (server.client.clone(), texts.clone(), alone.clone());
            clients.spawn(async move {
                for (text, alone) in texts.iter().zip(&alone).skip(offset).step_by(8) {
                    let body = json!({"text": text, "top_k": 3});
                    let (status, concurrent) = post_for_json(&client, "/predict", &body).await;
                    assert_eq!((status, &concurrent), (200, alone), "{text}");
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        server.stop().await.unwrap();
    }
}

/// Returns a model root with a graph of `tests/data/graphs`, and the tokenizer of the model `quantizing`.
fn graph_release(name: &str) -> TempDir {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let root = tempfile::tempdir().unwrap();
    let release = root.path().join(name).join("1");
    fs::create_dir_all(&release).unwrap();
    for file in ["model.onnx", "config.json"] {
        fs::copy(
            data.join("graphs").join(name).join(file),
            release.join(file),
        )
        .unwrap();
    }
    let tokenizer = data.join("models/quantizing/1/tokenizer.json");
    fs::copy(tokenizer, release.join("tokenizer.json")).unwrap();
    root
}

#[tokio::test]
async fn texts_of_one_request_answer_as_alone() {
    let texts: Vec<String> = (0..48)
        .zip(golden_texts())
        .map(|(at, text)| {
            let words = text.split_whitespace().take(1 + at % 9);
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    for engine in ENGINES {
        for name in [
            "no-mask",
            "decoder-without-padding-token",
            "fixed-batch-and-length",
        ] {
            let release = graph_release(name);
            let mut settings = fixture_settings(name, engine);
            release.path().clone_into(&mut settings.model.root);
            settings.limits.queue_capacity = 256.try_into().unwrap();
            let server = Server::start(settings).await;
            let body = json!({"texts": texts});
            let (status, response) = post_for_json(&server.client, "/predict", &body).await;
            assert_eq!(status, 200, "{response}");
            for (text, together) in texts
                .iter()
                .zip(response["predictions"].as_array().unwrap())
            {
                let body = json!({"text": text});
                let (_, alone) = post_for_json(&server.client, "/predict", &body).await;
                assert_eq!(
                    together["prediction"], alone["prediction"],
                    "{name}: {text}"
                );
                let [one, other] = [together, &alone].map(|it| it["confidence"].as_f64().unwrap());
                assert!((one - other).abs() < 1e-4, "{name}: {text}: {one}, {other}");
            }
            server.stop().await.unwrap();
        }
    }
}

/// `trained_token_ids.json` has the token IDs of the text. Python pads them as `tokenizer.json` says.
#[tokio::test]
async fn graph_without_mask_reads_the_padding_of_the_tokenizer() {
    let mut ids = vec![0, 36, 277, 263, 72, 277, 355, 80, 17, 2];
    ids.resize(16, 3);
    let release = graph_release("no-mask");
    let path = release.path().join("no-mask/1/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["padding"] = json!({
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "<unk>",
    });
    fs::write(&path, file.to_string()).unwrap();
    for engine in ENGINES {
        let mut settings = fixture_settings("no-mask", engine);
        release.path().clone_into(&mut settings.model.root);
        let server = Server::start(settings).await;
        let mut logits = Vec::new();
        for input in [
            json!({"name": "text", "datatype": "BYTES", "shape": [1], "data": ["A fine film."]}),
            json!({"name": "input_ids", "datatype": "INT64", "shape": [1, 16], "data": ids}),
        ] {
            let body = json!({"inputs": [input], "outputs": [{"name": "logits"}]});
            let path = "/v2/models/no-mask/infer";
            let (status, response) = post_for_json(&server.client, path, &body).await;
            assert_eq!(status, 200, "{response}");
            let data: Vec<f64> =
                serde_json::from_value(response["outputs"][0]["data"].clone()).unwrap();
            logits.push(data);
        }
        assert_eq!(logits[0].len(), 3);
        for (text, tokens) in logits[0].iter().zip(&logits[1]) {
            assert!((text - tokens).abs() < 1e-5, "{logits:?}");
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn error_of_a_long_pair_names_the_fields_of_the_client() {
    let release = graph_release("no-mask");
    let path = release.path().join("no-mask/1/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 8, "strategy": "OnlyFirst", "stride": 0});
    fs::write(&path, file.to_string()).unwrap();
    let mut settings = fixture_settings("no-mask", EngineKind::Rten);
    release.path().clone_into(&mut settings.model.root);
    let server = Server::start(settings).await;
    let long = "a film ".repeat(9);
    for (body, field, problem) in [
        (
            json!({"text": "a", "text_pair": long}),
            "text_pair",
            "text_pair is too long: the tokenizer truncates only text,",
        ),
        (
            json!({"texts": [" ", "a"], "text_pairs": ["b", long]}),
            "text_pairs",
            "text_pairs[1] is too long: the tokenizer truncates only texts[1],",
        ),
    ] {
        let (status, response) = post_for_json(&server.client, "/predict", &body).await;
        assert_eq!((status, &response["field"]), (400, &json!(field)));
        let error = response["error"].as_str().unwrap();
        assert!(error.starts_with(problem), "{error}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn infer_reports_which_texts_were_truncated() {
    let server = Server::start(fixture_settings("quantizing", EngineKind::Rten)).await;
    let long = "a wonderful film ".repeat(50);
    let body = json!({
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": [long, "fine"]}],
        "outputs": [{"name": "truncated"}],
    });
    let (status, response) =
        post_for_json(&server.client, "/v2/models/quantizing/infer", &body).await;
    assert_eq!(status, 200, "{response}");
    let expected =
        json!([{"name": "truncated", "datatype": "BOOL", "shape": [2], "data": [true, false]}]);
    assert_eq!(response["outputs"], expected);
    server.stop().await.unwrap();
}

const FLOATS_INFER: &str = "/v2/models/floats/infer";

/// The model `floats` has no finite `y` for this row, because it takes the logarithm of -1.
const ROW_WITHOUT_FINITE_OUTPUT: [f32; 4] = [-1.0, 0.0, 0.0, 0.0];

fn floats_request(row: &[f32], outputs: &Value) -> Value {
    json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, row.len()], "data": row}],
        "outputs": outputs,
    })
}

async fn assert_healthy_without_errors(server: &Server) {
    let (status, health) = server.client.health().await;
    assert_eq!((status, &health["error_count"]), (200, &json!(0)));
}

#[tokio::test]
async fn model_with_undeclared_row_length_is_served() {
    for engine in ENGINES {
        let server = Server::start(fixture_settings("floats", engine)).await;
        let outputs = json!([{"name": "y"}, {"name": "largest"}]);
        let body = floats_request(&[1.0, 0.0, 1.0, 2.0], &outputs);
        let (status, response) = post_for_json(&server.client, FLOATS_INFER, &body).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(response["outputs"][1]["data"], json!([0]));
        assert_healthy_without_errors(&server).await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn row_of_wrong_length_gets_400_and_counts_no_error() {
    for engine in ENGINES {
        let server = Server::start(fixture_settings("floats", engine)).await;
        let body = floats_request(&[1.0], &json!(null));
        let (status, response) = post_for_json(&server.client, FLOATS_INFER, &body).await;
        assert_eq!(status, 400, "{response}");
        assert_healthy_without_errors(&server).await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn non_finite_output_gets_400_as_json_and_200_as_binary() {
    for engine in ENGINES {
        let server = Server::start(fixture_settings("floats", engine)).await;
        let outputs = json!([{"name": "y"}, {"name": "largest"}]);
        let body = floats_request(&ROW_WITHOUT_FINITE_OUTPUT, &outputs);
        let (status, response) = post_for_json(&server.client, FLOATS_INFER, &body).await;
        assert_eq!(status, 400, "{response}");
        let error = response["error"].as_str().unwrap();
        assert!(error.contains("NaN or infinity"), "{error}");

        let binary = json!([{"name": "y", "parameters": {"binary_data": true}}]);
        let body = floats_request(&ROW_WITHOUT_FINITE_OUTPUT, &binary);
        let response = post(&server.client, FLOATS_INFER, &body).await;
        assert_eq!(response.status(), 200);
        assert_healthy_without_errors(&server).await;
        server.stop().await.unwrap();
    }
}

//! Releases that are changed copies of release v1.

use std::{fs, path::Path, time::SystemTime};

use serde_json::{Value, json};

use crate::support::{ReleaseCopy, Server, status_and_json};

const INFER: &str = "/v2/models/sentiment/infer";

async fn post(server: &Server, path: &str, body: Value) -> (u16, Value) {
    let response = server.client.post(path).json(&body).send().await;
    status_and_json(response.unwrap()).await
}

/// Starts a server with the graph of release v1, without its tokenizer and labels.
async fn start_graph_only_server() -> (Server, ReleaseCopy) {
    let release = ReleaseCopy::of_v1();
    fs::remove_file(release.directory().join("config.json")).unwrap();
    fs::remove_file(release.directory().join("tokenizer.json")).unwrap();
    (Server::start(release.settings()).await, release)
}

fn int64_input(name: &str, data: &Value, shape: &Value) -> Value {
    json!({"name": name, "datatype": "INT64", "shape": shape, "data": data})
}

#[tokio::test]
async fn release_without_tokenizer_serves_tensors_instead_of_texts() {
    let (server, _release) = start_graph_only_server().await;
    let (status, response) = post(&server, "/predict", json!({"text": "fine"})).await;
    assert_eq!(status, 404);
    assert!(
        response["error"]
            .as_str()
            .unwrap()
            .contains("takes tensors"),
        "{response}"
    );

    let metadata = server.client.get("/v2/models/sentiment");
    let metadata: Value = metadata.send().await.unwrap().json().await.unwrap();
    let names: Vec<_> = metadata["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| input["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["input_ids", "attention_mask"]);

    let body = json!({"inputs": [
        int64_input("input_ids", &json!([[2, 7, 3], [2, 9, 3]]), &json!([2, 3])),
        int64_input("attention_mask", &json!([1, 1, 1, 1, 1, 1]), &json!([2, 3])),
    ]});
    let (status, response) = post(&server, INFER, body).await;
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["outputs"][0]["name"], "logits");
    assert_eq!(response["outputs"][0]["shape"], json!([2, 2]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_tensors_get_400_with_reason() {
    let (server, _release) = start_graph_only_server().await;
    for (inputs, reason) in [
        (
            json!([int64_input("input_ids", &json!([2, 3]), &json!([1, 2]))]),
            "\"attention_mask\" is missing",
        ),
        (
            json!([
                int64_input("input_ids", &json!([2, 3]), &json!([2])),
                int64_input("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "shape is [2]; expected [-1, -1]",
        ),
        (
            json!([
                int64_input("input_ids", &json!([2, 3, 4]), &json!([1, 2])),
                int64_input("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "does not hold the 3 elements",
        ),
        // Valid by the protocol, but beyond the vocabulary of the model.
        (
            json!([
                int64_input("input_ids", &json!([2, 999_999]), &json!([1, 2])),
                int64_input("attention_mask", &json!([1, 1]), &json!([1, 2])),
            ]),
            "the model rejects these tensors",
        ),
    ] {
        let (status, response) = post(&server, INFER, json!({"inputs": inputs})).await;
        assert_eq!(status, 400, "{response}");
        assert!(
            response["error"].as_str().unwrap().contains(reason),
            "{response}"
        );
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn multi_label_model_returns_independent_scores() {
    let release = ReleaseCopy::of_v1();
    let config =
        r#"{"id2label": {"0": "sad", "1": "glad"}, "problem_type": "multi_label_classification"}"#;
    fs::write(release.directory().join("config.json"), config).unwrap();
    let server = Server::start(release.settings()).await;
    let body = json!({"text": "A wonderful film, I love it.", "top_k": 5});
    let (status, response) = post(&server, "/predict", body).await;
    assert_eq!((status, &response["prediction"]), (200, &json!("glad")));
    assert_eq!(response["labels"], json!(["glad"]));
    let scores = response["scores"].as_array().unwrap();
    assert_eq!(scores.len(), 2);
    assert_eq!(scores[0]["label"], "glad");
    assert_eq!(scores[0]["score"], response["confidence"]);

    let body = json!({
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["I love it."]}],
    });
    let (status, response) = post(&server, INFER, body).await;
    assert_eq!(status, 200, "{response}");
    let outputs = &response["outputs"];
    assert_eq!(outputs[0]["data"], json!(["glad"]));
    let logit = outputs[2]["data"][1].as_f64().unwrap();
    let confidence = outputs[1]["data"][0].as_f64().unwrap();
    assert!((confidence - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5);

    let metadata = server.client.get("/v2/models/sentiment");
    let metadata: Value = metadata.send().await.unwrap().json().await.unwrap();
    let described: Vec<_> = metadata["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| (output["name"].as_str().unwrap(), output["shape"].clone()))
        .collect();
    let expected = [
        ("label", json!([-1])),
        ("confidence", json!([-1])),
        ("logits", json!([-1, 2])),
        ("truncated", json!([-1])),
    ];
    assert_eq!(described, expected);
    server.stop().await.unwrap();
}

/// Returns the name, the size, and the modification time of each file in `directory`.
fn list_files(directory: &Path) -> Vec<(String, u64, SystemTime)> {
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

fn make_read_only(path: &Path) {
    let mut permissions = fs::metadata(path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(path, permissions).unwrap();
}

#[tokio::test]
async fn release_directory_is_never_modified() {
    let release = ReleaseCopy::of_v1();
    let directory = release.directory();
    let before = list_files(&directory);
    for (name, ..) in &before {
        make_read_only(&directory.join(name));
    }
    make_read_only(&directory);
    let server = Server::start(release.settings()).await;
    assert_eq!(server.client.predict("fine").await.status(), 200);
    server.stop().await.unwrap();
    // Permissions do not stop root, so the files are compared too.
    assert_eq!(list_files(&directory), before);
}

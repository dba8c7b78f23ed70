//! The sample of the texts that clients send.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{ServerProcess, run_to_exit, server_command, status_and_json};

/// Starts a server that writes samples to `directory`, sends it `bodies`, stops it, and returns the sample's file.
async fn sample(directory: &Path, settings: &[(&str, &str)], bodies: &[Value]) -> PathBuf {
    let mut environment = vec![("CAPTURE_DIRECTORY", directory.to_str().unwrap())];
    environment.extend(settings);
    environment.push(("GRACE_SECONDS", "0"));
    let mut server = ServerProcess::start(&environment).await;
    // The sample leaves out the deployer's own requests.
    let own = server
        .client
        .predict_request(&json!({"text": "a test input"}));
    let own = own.header("user-agent", "deployer/0.1.0 (token)");
    assert_eq!(own.send().await.unwrap().status(), 200);
    for body in bodies {
        let response = server.client.predict_request(body).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    server.signal("TERM").await;
    assert!(server.wait_for_exit().await.success());
    let files: Vec<_> = fs::read_dir(directory).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap().unwrap().path()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn captured_inputs_have_the_shape_of_a_golden_set() {
    let directory = tempfile::tempdir().unwrap();
    let bodies = [
        json!({"text": "A wonderful film, I love it. Call 555-12 or write to jo@example.org!"}),
        json!({"texts": ["An awful film, I hate it.", " ", "A wonderful film, I love it."]}),
    ];
    let path = sample(directory.path(), &[], &bodies).await;
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(path.extension().unwrap(), "jsonl");
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("sentiment-v1-"), "{name}");
    let redacted = "A wonderful film, I love it. Call 000-00 or write to [email]";
    let expected = [
        json!({"input": {"text": redacted}, "expect": "positive"}),
        json!({"input": {"text": "An awful film, I hate it."}, "expect": "negative"}),
        json!({"input": {"text": "A wonderful film, I love it."}, "expect": "positive"}),
    ];
    assert_eq!(lines(&path), expected);
}

#[tokio::test]
async fn captured_inputs_are_bounded_and_may_be_unredacted() {
    let directory = tempfile::tempdir().unwrap();
    let body = json!({"texts": vec!["call 5551212"; 16]});
    let settings = [("CAPTURE_INPUTS", "3"), ("CAPTURE_REDACT", "nothing")];
    let path = sample(directory.path(), &settings, &[body.clone(), body]).await;
    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert_eq!(line["input"]["text"], "call 5551212");
    }
}

#[tokio::test]
async fn texts_without_an_answer_take_no_place_in_the_sample() {
    let directory = tempfile::tempdir().unwrap();
    let mut texts = vec![" "; 15];
    texts.push("A wonderful film, I love it.");
    let bodies = [json!({ "texts": texts })];
    let path = sample(directory.path(), &[("CAPTURE_INPUTS", "1")], &bodies).await;
    let expected = json!({"text": "A wonderful film, I love it."});
    assert_eq!(lines(&path)[0]["input"], expected);
}

#[tokio::test]
async fn requests_and_stop_succeed_if_the_sample_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [
        ("CAPTURE_DIRECTORY", directory.path().to_str().unwrap()),
        ("GRACE_SECONDS", "0"),
    ];
    let mut server = ServerProcess::start(&environment).await;
    fs::remove_dir(directory.path()).unwrap();
    let (status, _) = status_and_json(server.client.predict("fine").await).await;
    assert_eq!(status, 200);
    server.signal("TERM").await;
    assert!(server.wait_for_exit().await.success());
    let log = server.read_log().await;
    let reported = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("the sample of inputs cannot be written")
    };
    assert!(log.iter().any(reported), "{log:?}");
}

#[tokio::test]
async fn missing_capture_directory_fails_startup() {
    let mut command = server_command();
    command.envs([
        ("MODEL_VERSION", "v1"),
        ("PORT", "0"),
        ("CAPTURE_DIRECTORY", "/no/such/directory"),
    ]);
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1), "{message}");
    assert!(
        message.contains("cannot write to /no/such/directory"),
        "{message}"
    );
    assert!(message.contains("CAPTURE_DIRECTORY"), "{message}");
}

#[tokio::test]
async fn model_name_that_leads_out_of_the_capture_directory_fails_startup() {
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let outer = fs::metadata(directory.path()).unwrap().modified().unwrap();
    let mut command = server_command();
    command.env("CAPTURE_DIRECTORY", &inner);
    command.envs([
        ("MODEL_NAME", "../outside"),
        ("MODEL_VERSION", "v1"),
        ("PORT", "0"),
    ]);
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("model name \"../outside\""), "{message}");
    let after = fs::metadata(directory.path()).unwrap().modified().unwrap();
    assert_eq!(after, outer, "a file was created outside");
}

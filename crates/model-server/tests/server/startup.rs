//! Releases and settings that end the start, and the health check that ships with the binary.

use std::{fs, net::TcpListener, path::PathBuf};

use model_server::{LoadError, ServeError, bind, serve};
use tempfile::TempDir;

use crate::support::{Process, command, outcome, settings, shipped_models};

/// A model root with a copy of release v1, for a test to damage.
struct Copy {
    root: TempDir,
}

impl Copy {
    fn of_v1() -> Self {
        let root = tempfile::tempdir().unwrap();
        let copy = Self { root };
        fs::create_dir_all(copy.release()).unwrap();
        for name in ["config.json", "model.onnx", "tokenizer.json"] {
            let shipped = shipped_models().join("sentiment/v1").join(name);
            fs::copy(shipped, copy.release().join(name)).unwrap();
        }
        copy
    }

    fn release(&self) -> PathBuf {
        self.root.path().join("sentiment/v1")
    }

    /// Starts the binary on this root, and returns what it says when it ends with exit code 1.
    async fn refusal(&self) -> String {
        let mut command = command();
        command
            .env("MODEL_ROOT", self.root.path())
            .envs([("MODEL_VERSION", "v1"), ("PORT", "0")]);
        let (code, _, message) = outcome(&mut command).await;
        assert_eq!(code, Some(1), "{message}");
        message
    }
}

#[tokio::test]
async fn a_missing_version_setting_is_a_usage_error_that_says_what_to_set() {
    let (code, _, message) = outcome(&mut command()).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("set MODEL_VERSION"), "{message}");
}

#[tokio::test]
async fn an_unknown_version_names_the_directory_and_the_versions_that_are_there() {
    let mut command = command();
    command.envs([("MODEL_VERSION", "v9"), ("PORT", "0")]);
    let (code, _, message) = outcome(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("sentiment/v9"), "{message}");
    assert!(message.contains("present: v1"), "{message}");
}

#[tokio::test]
async fn a_missing_file_ends_the_start_with_its_path() {
    for name in ["config.json", "model.onnx", "tokenizer.json"] {
        let copy = Copy::of_v1();
        let path = copy.release().join(name);
        fs::remove_file(&path).unwrap();
        let message = copy.refusal().await;
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("a release holds"), "{message}");
    }
}

#[tokio::test]
async fn a_damaged_file_ends_the_start_with_its_path_and_what_was_expected() {
    for name in ["config.json", "model.onnx", "tokenizer.json"] {
        let copy = Copy::of_v1();
        let path = copy.release().join(name);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"not what it was"] {
            fs::write(&path, damaged).unwrap();
            let message = copy.refusal().await;
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(message.contains("expected"), "{message}");
        }
    }
}

#[tokio::test]
async fn files_that_do_not_fit_together_end_the_start() {
    let copy = Copy::of_v1();
    let config = r#"{"id2label": {"0": "bad", "1": "fair", "2": "good"}}"#;
    fs::write(copy.release().join("config.json"), config).unwrap();
    let message = copy.refusal().await;
    assert!(
        message.contains("[1, 2] for 1 texts; config.json names 3 labels"),
        "{message}"
    );
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut command = command();
    command
        .env("MODEL_VERSION", "v1")
        .env("PORT", address.port().to_string());
    let (code, _, message) = outcome(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(message.contains(&address.to_string()), "{message}");
}

#[tokio::test]
async fn the_library_hands_back_why_a_release_cannot_be_served() {
    let settings = settings("v9");
    let listener = bind(settings.address).unwrap();
    let ended = serve(listener, settings, std::future::pending(), |router| router).await;
    assert!(matches!(
        ended,
        Err(ServeError::Load(LoadError::Repository(_)))
    ));
}

#[tokio::test]
async fn the_health_check_succeeds_only_where_a_healthy_server_answers() {
    let server = Process::start(&[]).await;
    let url = format!("{}/health", server.ask.url);
    let (code, out, _) = outcome(command().args(["healthcheck", "--url", &url])).await;
    assert_eq!(code, Some(0));
    assert!(out.contains(r#""status":"healthy""#), "{out}");

    let (code, _, message) =
        outcome(command().args(["healthcheck", "--url", &server.ask.url])).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("404"), "{message}");

    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut nobody = command();
    nobody
        .arg("healthcheck")
        .env("PORT", free.port().to_string());
    let (code, _, message) = outcome(&mut nobody).await;
    assert_eq!(code, Some(1));
    assert!(message.contains(&free.to_string()), "{message}");
}

#[tokio::test]
async fn variables_that_are_empty_count_as_not_set() {
    let empty = [
        "ENGINE",
        "QUEUE_CAPACITY",
        "REQUEST_TIMEOUT_SECONDS",
        "REQUEST_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let mut server = Process::start(&empty.map(|name| (name, ""))).await;
    assert_eq!(server.ask.health().await.1["engine"], "rten");
    server.signal("TERM").await;
    assert_eq!(server.exit().await.code(), Some(0));
}

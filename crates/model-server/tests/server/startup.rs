//! Releases and settings that make the start fail, and the command `healthcheck`.

use std::{fs, net::TcpListener};

use model_server::{LoadError, ServeError, bind, serve};

use crate::support::{ReleaseCopy, ServerProcess, run_to_exit, server_command, settings};

/// Starts the binary on `release`, and returns its error output after an exit with code 1.
async fn startup_error(release: &ReleaseCopy) -> String {
    let mut command = server_command();
    command
        .env("MODEL_ROOT", release.root.path())
        .envs([("MODEL_VERSION", "v1"), ("PORT", "0")]);
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1), "{message}");
    message
}

#[tokio::test]
async fn missing_model_version_is_usage_error() {
    let (code, _, message) = run_to_exit(&mut server_command()).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("set MODEL_VERSION"), "{message}");
}

#[tokio::test]
async fn unknown_version_error_lists_present_versions() {
    let mut command = server_command();
    command.envs([("MODEL_VERSION", "v9"), ("PORT", "0")]);
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("sentiment/v9"), "{message}");
    assert!(message.contains("present: v1"), "{message}");
}

#[tokio::test]
async fn missing_file_fails_startup_with_its_path() {
    for name in ["config.json", "model.onnx", "tokenizer.json"] {
        let release = ReleaseCopy::of_v1();
        let path = release.directory().join(name);
        fs::remove_file(&path).unwrap();
        let message = startup_error(&release).await;
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(message.contains("a release holds"), "{message}");
    }
}

#[tokio::test]
async fn damaged_file_fails_startup_with_path_and_expectation() {
    for name in ["config.json", "model.onnx", "tokenizer.json"] {
        let release = ReleaseCopy::of_v1();
        let path = release.directory().join(name);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"other content"] {
            fs::write(&path, damaged).unwrap();
            let message = startup_error(&release).await;
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(message.contains("expected"), "{message}");
        }
    }
}

#[tokio::test]
async fn label_count_that_contradicts_graph_fails_startup() {
    let release = ReleaseCopy::of_v1();
    let config = r#"{"id2label": {"0": "bad", "1": "fair", "2": "good"}}"#;
    fs::write(release.directory().join("config.json"), config).unwrap();
    let message = startup_error(&release).await;
    assert!(
        message.contains("because config.json has 3 labels"),
        "{message}"
    );
}

#[tokio::test]
async fn unknown_problem_type_fails_startup_with_the_known_ones() {
    let release = ReleaseCopy::of_v1();
    let path = release.directory().join("config.json");
    fs::write(&path, r#"{"problem_type": "regression"}"#).unwrap();
    let message = startup_error(&release).await;
    for part in [
        path.to_str().unwrap(),
        "problem_type is \"regression\"",
        "expected single_label_classification or multi_label_classification",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn port_in_use_fails_startup_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = server_command();
    command
        .env("MODEL_VERSION", "v1")
        .env("PORT", address.port().to_string());
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(message.contains(&address.to_string()), "{message}");
}

#[tokio::test]
async fn serve_returns_load_error_for_unknown_version() {
    let settings = settings("v9");
    let listener = bind(settings.address.into()).unwrap();
    let result = serve(listener, settings, std::future::pending(), |router| router).await;
    assert!(matches!(
        result,
        Err(ServeError::Load(LoadError::Repository(_)))
    ));
}

#[tokio::test]
async fn healthcheck_succeeds_only_against_healthy_server() {
    let server = ServerProcess::start(&[]).await;
    let url = format!("{}/health", server.client.url);
    let (code, out, _) = run_to_exit(server_command().args(["healthcheck", "--url", &url])).await;
    assert_eq!(code, Some(0));
    assert!(out.contains(r#""status":"healthy""#), "{out}");

    let (code, _, message) =
        run_to_exit(server_command().args(["healthcheck", "--url", &server.client.url])).await;
    assert_eq!(code, Some(1));
    assert!(message.contains("404"), "{message}");

    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut command = server_command();
    command
        .arg("healthcheck")
        .env("PORT", free.port().to_string());
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(1));
    assert!(message.contains(&free.to_string()), "{message}");
}

#[tokio::test]
async fn empty_environment_variables_count_as_unset() {
    let empty = [
        "ENGINE",
        "QUEUE_CAPACITY",
        "REQUEST_TIMEOUT_SECONDS",
        "REQUEST_LOG",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ];
    let mut server = ServerProcess::start(&empty.map(|name| (name, ""))).await;
    assert_eq!(server.client.health().await.1["engine"], "rten");
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

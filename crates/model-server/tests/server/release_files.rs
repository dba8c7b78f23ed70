//! Where a release keeps its graph and its weights.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use model_server::{EngineKind, ServeError, Settings, bind, serve};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    ReleaseCopy, Server, ServerProcess, TIMEOUT, fixture_settings, status_and_json, with_engine,
};

const ENGINES: [EngineKind; 2] = [EngineKind::Rten, EngineKind::Onnxruntime];

/// A copy of the fixture model `external`, which has its weights in `model.onnx_data`.
struct ExternalModel {
    root: TempDir,
}

impl ExternalModel {
    /// Copies the graph and its weights to `directory`, relative to the release.
    fn in_directory(directory: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let model = Self { root };
        let directory = model.directory().join(directory);
        fs::create_dir_all(&directory).unwrap();
        let fixture = fixture_settings("external", EngineKind::Rten).model;
        let fixture = fixture.root.join(fixture.name).join(fixture.version);
        for name in ["model.onnx", "model.onnx_data"] {
            fs::copy(fixture.join(name), directory.join(name)).unwrap();
        }
        model
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("external/1")
    }

    fn settings(&self, engine: EngineKind) -> Settings {
        let mut settings = fixture_settings("external", engine);
        self.root.path().clone_into(&mut settings.model.root);
        settings
    }

    /// Replaces the path of the weights in the graph by one of the same length.
    fn relocate(&self, location: &[u8; 15]) {
        let path = self.directory().join("model.onnx");
        let mut graph = fs::read(&path).unwrap();
        let before = b"model.onnx_data";
        let at = graph.windows(15).position(|bytes| bytes == before).unwrap();
        graph[at..at + 15].copy_from_slice(location);
        fs::write(path, graph).unwrap();
    }

    /// Returns why the server refuses the model.
    async fn refusal(&self, engine: EngineKind) -> String {
        startup_error(self.settings(engine)).await
    }
}

async fn startup_error(settings: Settings) -> String {
    let listener = bind(settings.address.into()).unwrap();
    let stop = std::future::pending();
    let served = serve(listener, settings, stop, std::convert::identity);
    let ended = tokio::time::timeout(TIMEOUT, served).await;
    match ended.expect("the server ends in time") {
        Err(ServeError::Load(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn sums(server: &Server) -> Value {
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4],
        "data": [1, 2, 3, 4, 5, 6, 7, 8]}]});
    let request = server.client.post("/v2/models/external/infer").json(&body);
    let (status, response) = status_and_json(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    response["outputs"][0]["data"].clone()
}

#[tokio::test]
async fn graph_is_found_in_the_directory_onnx_and_by_another_name() {
    for name in [
        "onnx/model.onnx",
        "model_quantized.onnx",
        "onnx/model_fp16.onnx",
    ] {
        let release = ReleaseCopy::of_v1();
        let directory = release.directory();
        fs::create_dir(directory.join("onnx")).unwrap();
        fs::rename(directory.join("model.onnx"), directory.join(name)).unwrap();
        for engine in ENGINES {
            let server = Server::start(with_engine(release.settings(), engine)).await;
            assert_eq!(server.client.predict("fine").await.status(), 200, "{name}");
            server.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn several_graphs_without_a_usual_name_fail_startup_with_their_names() {
    let release = ReleaseCopy::of_v1();
    let directory = release.directory();
    fs::rename(directory.join("model.onnx"), directory.join("a.onnx")).unwrap();
    fs::create_dir(directory.join("onnx")).unwrap();
    fs::copy(directory.join("a.onnx"), directory.join("onnx/b.onnx")).unwrap();
    let message = startup_error(release.settings()).await;
    assert!(
        message.contains("several graphs: a.onnx, onnx/b.onnx"),
        "{message}"
    );
    assert!(
        message.contains("rename the one to serve to model.onnx"),
        "{message}"
    );
}

#[tokio::test]
async fn weights_in_a_second_file_are_served() {
    for directory in ["", "onnx"] {
        let model = ExternalModel::in_directory(directory);
        for engine in ENGINES {
            let server = Server::start(model.settings(engine)).await;
            assert_eq!(sums(&server).await, json!([10.0, 26.0]), "{engine:?}");
            server.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn weights_are_served_from_a_release_behind_a_symbolic_link() {
    let model = ExternalModel::in_directory("");
    let store = model.root.path().join("store");
    fs::rename(model.directory(), &store).unwrap();
    symlink(&store, model.directory()).unwrap();
    for engine in ENGINES {
        let server = Server::start(model.settings(engine)).await;
        assert_eq!(sums(&server).await, json!([10.0, 26.0]), "{engine:?}");
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn weights_that_are_missing_or_too_short_fail_startup_with_a_path() {
    for engine in ENGINES {
        let model = ExternalModel::in_directory("");
        let path = model.directory().join("model.onnx_data");
        fs::write(&path, "short").unwrap();
        let message = model.refusal(engine).await;
        let graph = model.directory().join("model.onnx");
        assert!(message.contains(graph.to_str().unwrap()), "{message}");
        fs::remove_file(&path).unwrap();
        let message = model.refusal(engine).await;
        let expected = format!("cannot read {}", path.display());
        assert!(message.contains(&expected), "{message}");
        assert!(message.contains("keeps weights in this file"), "{message}");
    }
}

#[tokio::test]
async fn weights_outside_of_the_release_are_refused() {
    for engine in ENGINES {
        for (location, problem) in [
            (
                b"../../leak_data",
                "leads out of the directory of the graph",
            ),
            (
                b"/etc/../hosts_a",
                "leads out of the directory of the graph",
            ),
            (
                b"a/../../../data",
                "leads out of the directory of the graph",
            ),
            (b"model\\.nnx_data", "has a backslash"),
        ] {
            let model = ExternalModel::in_directory("");
            model.relocate(location);
            let message = model.refusal(engine).await;
            assert!(message.contains(problem), "{message}");
        }
        let model = ExternalModel::in_directory("");
        let path = model.directory().join("model.onnx_data");
        let outside = model.root.path().join("weights");
        fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        let message = model.refusal(engine).await;
        assert!(
            message.contains("is a symbolic link out of the release"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn invalid_warm_up_line_fails_startup_with_file_and_line() {
    let many = "{\"text\": \"fine\"}\n".repeat(101);
    for (content, line, problem) in [
        ("{\"text\": \"fine\"}\n\n{\"text\": 7}\n", 3, "invalid type"),
        (
            "{\"texts\": [\"fine\"]}",
            1,
            "unknown field `texts`, expected one of `text`, `text_pair`, `top_k`",
        ),
        (
            "{\"text\": \"a\", \"text_pair\": \"b\"}",
            1,
            "makes no pairs",
        ),
        (
            "{\"text\": \"a\", \"text_pair\": \" \"}",
            1,
            "text_pair is blank",
        ),
        ("{\"text\": \"a\", \"top_k\": 0}", 1, "nonzero"),
        ("fine", 1, "expected ident at column 2"),
        ("{\"text\": \" \"}", 1, "blank"),
        (&many, 101, "at most 100"),
    ] {
        let release = ReleaseCopy::of_v1();
        let path = release.directory().join("warmup.jsonl");
        fs::write(&path, content).unwrap();
        let message = startup_error(release.settings()).await;
        let expected = format!("{}, line {line}: ", path.display());
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains(problem), "{message}");
    }
}

#[tokio::test]
async fn warm_up_of_a_tensor_model_is_refused() {
    let model = ExternalModel::in_directory("");
    fs::write(
        model.directory().join("warmup.jsonl"),
        "{\"text\": \"fine\"}",
    )
    .unwrap();
    let message = model.refusal(EngineKind::Rten).await;
    assert!(
        message.contains("warmup.jsonl, line 1: this release takes tensors"),
        "{message}"
    );
}

#[tokio::test]
async fn warm_up_runs_each_text_on_each_worker_and_in_both_modes_before_ready() {
    let release = ReleaseCopy::of_v1();
    let requests = "{\"text\": \"fine\"}\n{\"text\": \"not so fine\", \"top_k\": 2}\n";
    fs::write(release.directory().join("warmup.jsonl"), requests).unwrap();
    let mut server = ServerProcess::start(&[
        ("MODEL_ROOT", release.root.path().to_str().unwrap()),
        ("INFERENCE_THREADS", "2"),
        ("INFERENCE_WORKERS", "2"),
        ("GRACE_SECONDS", "0"),
    ])
    .await;
    server.signal("TERM").await;
    assert!(server.wait_for_exit().await.success());
    let log = server.read_log().await;
    let at = |message| {
        log.iter()
            .position(|line| line["message"] == message)
            .unwrap()
    };
    let warmed_up = &log[at("warmed up")];
    assert_eq!(warmed_up["passes"], 2 * 2 * 2, "{warmed_up}");
    assert!(at("warmed up") < at("ready"));
}

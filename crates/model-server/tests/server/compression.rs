//! Compressed requests and responses.

use std::io::{self, Read as _, Write as _};

use flate2::{
    Compression,
    read::GzDecoder,
    write::{GzEncoder, ZlibEncoder},
};
use model_server::EngineKind;
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::support::{Server, ServerProcess, fixture_settings, settings};

const GIBIBYTE: u64 = 1024 * 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Compresses with zlib, which is what HTTP means by `deflate`.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn post(url: &str, path: &str, encoding: &str, body: Vec<u8>) -> Response {
    let request = reqwest::Client::new().post(format!("{url}{path}"));
    let request = request
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_ENCODING, encoding);
    request.body(body).send().await.unwrap()
}

async fn status_and_error(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn compressed_request_gets_same_response_as_plain() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film", "top_k": 2}).to_string();
    let plain = post(
        &server.client.url,
        "/predict",
        "identity",
        body.clone().into(),
    )
    .await;
    assert_eq!(plain.status(), 200);
    let plain: Value = plain.json().await.unwrap();
    for (encoding, body) in [
        ("gzip", gzip(body.as_bytes())),
        ("deflate", deflate(body.as_bytes())),
    ] {
        let response = post(&server.client.url, "/predict", encoding, body).await;
        assert_eq!(response.status(), 200, "{encoding}");
        assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
        assert_eq!(response.json::<Value>().await.unwrap(), plain, "{encoding}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn content_encoding_is_read_as_a_list_of_codings() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film"}).to_string();
    let plain = body.clone().into_bytes();
    let (gzipped, deflated) = (gzip(body.as_bytes()), deflate(body.as_bytes()));
    for (encoding, body, status) in [
        ("GZIP", &gzipped, 200),
        ("x-gzip", &gzipped, 200),
        ("identity, gzip", &gzipped, 200),
        ("gzip,", &gzipped, 200),
        ("Deflate", &deflated, 200),
        ("", &plain, 200),
        ("Identity", &plain, 200),
        ("identity, identity", &plain, 200),
        ("gzip, gzip", &gzip(&gzipped), 415),
        ("deflate, gzip", &gzip(&deflated), 415),
        ("x-deflate", &deflated, 415),
    ] {
        let response = post(&server.client.url, "/predict", encoding, body.clone()).await;
        assert_eq!(response.status(), status, "{encoding:?}");
        if status == 415 {
            assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip, deflate");
            let (_, error) = status_and_error(response).await;
            assert!(error.contains(&format!("is {encoding};")), "{error}");
        }
    }
    // Two lines of a header are one list.
    let request = server.client.post("/predict").body(gzip(&gzipped));
    let request = request
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_ENCODING, "gzip")
        .header(header::CONTENT_ENCODING, "gzip");
    assert_eq!(request.send().await.unwrap().status(), 415);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn binary_tensors_start_after_decompressed_json() {
    let server = Server::start(fixture_settings("floats", EngineKind::Rten)).await;
    let head = json!({
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "largest"}],
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    for number in [1.0_f32, 0.0, 1.0, 2.0] {
        body.extend(number.to_le_bytes());
    }
    let request = server.client.post("/v2/models/floats/infer");
    let response = request
        .header("inference-header-content-length", head.len())
        .header(header::CONTENT_ENCODING, "gzip")
        .body(gzip(&body))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let response: Value = response.json().await.unwrap();
    assert_eq!(response["outputs"][0]["data"], json!([0]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn decompression_bomb_gets_413_in_bounded_memory() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut io::repeat(0).take(GIBIBYTE), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let server = ServerProcess::start(&[("GRACE_SECONDS", "0")]).await;
    let before = server.peak_memory();
    for _ in 0..4 {
        let response = post(&server.client.url, "/predict", "gzip", bomb.clone()).await;
        let (status, error) = status_and_error(response).await;
        assert_eq!(status, 413, "{error}");
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
    }
    let growth = server.peak_memory() - before;
    assert!(growth < GIBIBYTE / 16, "memory grew by {growth} bytes");
}

#[tokio::test]
async fn decompression_stops_at_body_limit() {
    let server = Server::start(settings("v1")).await;
    // The second half is no valid gzip. A server that reads beyond the limit of 4096 bytes would
    // answer 400.
    let mut body = gzip(&vec![b'a'; 1024 * 1024]);
    let half = body.len() / 2;
    body[half..].fill(0xff);
    let (status, error) =
        status_and_error(post(&server.client.url, "/predict", "gzip", body).await).await;
    assert_eq!(status, 413, "{error}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn decompressed_bytes_reserve_and_release_memory() {
    let mut settings = settings("v1");
    settings.limits.max_body_bytes = 100_000;
    settings.limits.max_pending_bytes = 60_000;
    let server = Server::start(settings).await;
    let body = |length| gzip(json!({"text": "a".repeat(length)}).to_string().as_bytes());
    for _ in 0..3 {
        let response = post(&server.client.url, "/predict", "gzip", body(80_000)).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.status(), 429);
        let response = post(&server.client.url, "/predict", "gzip", body(50_000)).await;
        assert_eq!(response.status(), 200);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_compressed_body_gets_400_in_json() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film"}).to_string();
    let complete = gzip(body.as_bytes());
    let mut wrong_checksum = complete.clone();
    let checksum = wrong_checksum.len() - 8;
    wrong_checksum[checksum] ^= 1;
    for (case, encoding, body) in [
        ("not compressed", "gzip", body.clone().into_bytes()),
        ("not compressed", "deflate", body.into_bytes()),
        ("gzip", "deflate", complete.clone()),
        (
            "truncated",
            "gzip",
            complete[..complete.len() - 10].to_vec(),
        ),
        ("wrong checksum", "gzip", wrong_checksum),
    ] {
        let response = post(&server.client.url, "/predict", encoding, body).await;
        let (status, error) = status_and_error(response).await;
        assert_eq!(status, 400, "{case}: {error}");
        assert!(
            error.contains(&format!("the body is not valid {encoding}")),
            "{case}: {error}"
        );
    }
    let text = server.client.metrics().await;
    let errors = r#"model_server_errors_total{kind="compressed"} 5"#;
    assert!(text.contains(errors), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_encoding_gets_415_after_full_body() {
    let server = Server::start(settings("v1")).await;
    // Larger than the socket buffers, so that the client is still sending when the server refuses.
    let large = vec![b'x'; 8 * 1024 * 1024];
    for path in ["/predict", "/v2/models/sentiment/infer"] {
        let response = post(&server.client.url, path, "br", large.clone()).await;
        assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip, deflate");
        let (status, error) = status_and_error(response).await;
        assert_eq!(status, 415, "{error}");
        assert!(error.contains("content-encoding is br"), "{error}");
    }
    server.stop().await.unwrap();
}

/// Returns the decompressed body of a response, and whether it was compressed.
async fn decompressed(response: Response) -> (String, bool) {
    assert_eq!(response.status(), 200);
    let compressed = response.headers().get(header::CONTENT_ENCODING).is_some();
    let body = response.bytes().await.unwrap();
    let mut text = String::new();
    if compressed {
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(body.into()).unwrap();
    }
    (text, compressed)
}

/// Returns each line without its value, which may differ between two scrapes.
fn series_names(metrics: &str) -> Vec<&str> {
    let lines = metrics.lines();
    lines
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        .collect()
}

#[tokio::test]
async fn large_responses_are_compressed_for_gzip_clients() {
    let server = Server::start(settings("v1")).await;
    let get = async |path: &str, accepted: Option<&str>| {
        let mut request = server.client.get(path);
        if let Some(accepted) = accepted {
            request = request.header(header::ACCEPT_ENCODING, accepted);
        }
        decompressed(request.send().await.unwrap()).await
    };
    // Counts this route, so that both scrapes below have the same series.
    get("/metrics", None).await;
    for path in ["/openapi.json", "/docs", "/metrics"] {
        let (plain, compressed) = get(path, None).await;
        assert!(!compressed, "{path}");
        let (decompressed, compressed) = get(path, Some("br, gzip")).await;
        assert!(compressed, "{path}");
        if path == "/metrics" {
            assert_eq!(series_names(&decompressed), series_names(&plain));
        } else {
            assert_eq!(decompressed, plain, "{path}");
        }
        assert!(!get(path, Some("br")).await.1, "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn predictions_are_never_compressed() {
    let server = Server::start(settings("v1")).await;
    for body in [
        json!({"texts": vec!["a fine film"; 16], "top_k": 2}),
        json!({"texts": []}),
    ] {
        let request = server.client.predict_request(&body);
        let response = request.header(header::ACCEPT_ENCODING, "gzip").send().await;
        let response = response.unwrap();
        assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
        response.json::<Value>().await.unwrap();
    }
    server.stop().await.unwrap();
}

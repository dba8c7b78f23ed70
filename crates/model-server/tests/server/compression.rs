//! Compressed requests, and answers that are compressed.

use std::io::{self, Read as _, Write as _};

use flate2::{
    Compression,
    read::GzDecoder,
    write::{GzEncoder, ZlibEncoder},
};
use model_server::EngineKind;
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::support::{Process, Server, fixture, settings};

const GIBIBYTE: u64 = 1024 * 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// HTTP's `deflate` is what others call zlib.
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

async fn refused(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_compressed_text_gets_the_answer_of_a_plain_one() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film", "top_k": 2}).to_string();
    let plain = post(&server.ask.url, "/predict", "identity", body.clone().into()).await;
    assert_eq!(plain.status(), 200);
    let plain: Value = plain.json().await.unwrap();
    for (encoding, body) in [
        ("gzip", gzip(body.as_bytes())),
        ("deflate", deflate(body.as_bytes())),
    ] {
        let response = post(&server.ask.url, "/predict", encoding, body).await;
        assert_eq!(response.status(), 200, "{encoding}");
        assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
        assert_eq!(response.json::<Value>().await.unwrap(), plain, "{encoding}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn compressed_binary_tensors_are_cut_where_the_decompressed_json_ends() {
    let server = Server::start(fixture("floats", EngineKind::Rten)).await;
    let head = json!({
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "largest"}],
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    for number in [1.0_f32, 0.0, 1.0, 2.0] {
        body.extend(number.to_le_bytes());
    }
    let url = format!("{}/v2/models/floats/infer", server.ask.url);
    let request = server.ask.client.post(url);
    let response = request
        .header("inference-header-content-length", head.len())
        .header(header::CONTENT_ENCODING, "gzip")
        .body(gzip(&body))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["outputs"][0]["data"], json!([0]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_gibibyte_of_zeros_is_refused_with_a_fraction_of_that_memory() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    io::copy(&mut io::repeat(0).take(GIBIBYTE), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let server = Process::start(&[("GRACE_SECONDS", "0")]).await;
    let before = server.peak_memory();
    for _ in 0..4 {
        let response = post(&server.ask.url, "/predict", "gzip", bomb.clone()).await;
        let (status, error) = refused(response).await;
        assert_eq!(status, 413, "{error}");
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
    }
    let more = server.peak_memory() - before;
    assert!(more < GIBIBYTE / 16, "{more} bytes more");
}

#[tokio::test]
async fn decompression_ends_at_the_limit() {
    let server = Server::start(settings("v1")).await;
    // Far beyond the limit of 4096 bytes it is no gzip: who reads that far has to say so.
    let mut body = gzip(&vec![b'a'; 1024 * 1024]);
    let half = body.len() / 2;
    body[half..].fill(0xff);
    let (status, error) = refused(post(&server.ask.url, "/predict", "gzip", body).await).await;
    assert_eq!(status, 413, "{error}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn decompressed_bytes_take_room_and_none_of_it_stays_taken() {
    let mut settings = settings("v1");
    settings.max_body_bytes = 100_000;
    settings.max_pending_bytes = 60_000;
    let server = Server::start(settings).await;
    let body = |length| gzip(json!({"text": "a".repeat(length)}).to_string().as_bytes());
    for _ in 0..3 {
        let response = post(&server.ask.url, "/predict", "gzip", body(80_000)).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.status(), 429);
        let response = post(&server.ask.url, "/predict", "gzip", body(50_000)).await;
        assert_eq!(response.status(), 200);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_not_what_its_encoding_says_is_refused_in_json() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film"}).to_string();
    let whole = gzip(body.as_bytes());
    let mut wrong_sum = whole.clone();
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    for (what, encoding, body) in [
        ("plain", "gzip", body.clone().into_bytes()),
        ("plain", "deflate", body.into_bytes()),
        ("other", "deflate", whole.clone()),
        ("cut", "gzip", whole[..whole.len() - 10].to_vec()),
        ("wrong sum", "gzip", wrong_sum),
    ] {
        let response = post(&server.ask.url, "/predict", encoding, body).await;
        let (status, error) = refused(response).await;
        assert_eq!(status, 400, "{what}: {error}");
        assert!(
            error.contains(&format!("the body is not valid {encoding}")),
            "{what}: {error}"
        );
    }
    let text = server
        .ask
        .client
        .get(format!("{}/metrics", server.ask.url))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let counted = r#"model_server_errors_total{kind="compressed"} 5"#;
    assert!(text.contains(counted), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_unknown_encoding_is_refused_in_json_after_the_whole_body() {
    let server = Server::start(settings("v1")).await;
    // More than a connection holds on its way, so that the client is still sending when it is refused.
    let large = vec![b'x'; 8 * 1024 * 1024];
    for path in ["/predict", "/v2/models/sentiment/infer"] {
        let response = post(&server.ask.url, path, "br", large.clone()).await;
        assert_eq!(response.headers()[header::ACCEPT_ENCODING], "gzip, deflate");
        let (status, error) = refused(response).await;
        assert_eq!(status, 415, "{error}");
        assert!(error.contains("content-encoding is br"), "{error}");
    }
    server.stop().await.unwrap();
}

/// An answer to a client that accepts gzip, and whether it was compressed.
async fn unpacked(response: Response) -> (String, bool) {
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

/// What stays the same from one scrape to the next: each line up to its value.
fn names(metrics: &str) -> Vec<&str> {
    let lines = metrics.lines();
    lines
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        .collect()
}

#[tokio::test]
async fn large_texts_are_compressed_when_the_client_accepts_it() {
    let server = Server::start(settings("v1")).await;
    let get = async |path: &str, accepted: Option<&str>| {
        let mut request = server.ask.client.get(format!("{}{path}", server.ask.url));
        if let Some(accepted) = accepted {
            request = request.header(header::ACCEPT_ENCODING, accepted);
        }
        unpacked(request.send().await.unwrap()).await
    };
    // So that all series are there before they are compared.
    get("/metrics", None).await;
    for path in ["/openapi.json", "/docs", "/metrics"] {
        let (plain, compressed) = get(path, None).await;
        assert!(!compressed, "{path}");
        let (same, compressed) = get(path, Some("br, gzip")).await;
        assert!(compressed, "{path}");
        if path == "/metrics" {
            assert_eq!(names(&same), names(&plain));
        } else {
            assert_eq!(same, plain, "{path}");
        }
        assert!(!get(path, Some("br")).await.1, "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn predictions_are_never_compressed() {
    let server = Server::start(settings("v1")).await;
    let url = format!("{}/predict", server.ask.url);
    for body in [
        json!({"texts": vec!["a fine film"; 16], "top_k": 2}),
        json!({"texts": []}),
    ] {
        let request = server.ask.client.post(&url).json(&body);
        let response = request.header(header::ACCEPT_ENCODING, "gzip").send().await;
        let response = response.unwrap();
        assert!(response.headers().get(header::CONTENT_ENCODING).is_none());
        response.json::<Value>().await.unwrap();
    }
    server.stop().await.unwrap();
}

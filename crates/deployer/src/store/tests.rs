//! The store over HTTP, by its own client.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{
    adapters::HttpStore,
    cluster::{RouterFlags, Truth},
    ports::{PortError, TruthStore as _, Version, WriteError},
};

const TOKEN: &str = "0123456789abcdef";
const TIMEOUT: Duration = Duration::from_secs(10);

/// A store that serves until it is dropped.
struct Served {
    directory: tempfile::TempDir,
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let path = directory.path().join("store.json");
        StoreFile::create(&path, Color::Blue).unwrap();
        let store = Arc::new(StoreFile::open(&path).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = protected(routes(store), TokenFile::open(&token).unwrap());
        let task = tokio::spawn(async move { serve(&listener, &router).await });
        Self {
            directory,
            url,
            task,
        }
    }

    fn client(&self) -> HttpStore {
        client(&self.url, TOKEN, &self.directory)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn client(url: &str, token: &str, directory: &tempfile::TempDir) -> HttpStore {
    let path = directory.path().join(format!("client-{token}"));
    std::fs::write(&path, token).unwrap();
    HttpStore::new(url, &path, TIMEOUT).unwrap()
}

#[tokio::test]
async fn client_reads_what_it_wrote_and_learns_of_a_conflict() {
    let served = Served::start().await;
    let store = served.client();
    let (truth, first) = store.read().await.unwrap();
    assert_eq!(truth, Truth::default());
    let prepared = truth.prepare(RouterFlags::default(), "a test");
    let second = store.replace(&first, &prepared).await.unwrap();
    assert_eq!(store.read().await.unwrap(), (prepared, second));
    let conflict = store.replace(&first, &truth).await;
    assert_eq!(conflict, Err(WriteError::Conflict));
}

#[tokio::test]
async fn of_concurrent_writes_on_one_version_one_wins() {
    let served = Served::start().await;
    let store = served.client();
    let (truth, version) = store.read().await.unwrap();
    let next = truth.decide(truth.flags);
    let writes = (0..16).map(|_| store.replace(&version, &next));
    let results = futures_util::future::join_all(writes).await;
    let won = results.iter().filter(|it| it.is_ok()).count();
    let lost = results
        .iter()
        .filter(|it| **it == Err(WriteError::Conflict))
        .count();
    assert_eq!((won, lost), (1, 15));
}

#[tokio::test]
async fn routers_are_registered_and_unregistered() {
    let served = Served::start().await;
    let store = served.client();
    let router = RouterEntry {
        name: "one".to_owned(),
        url: "http://127.0.0.1:1".to_owned(),
        incarnation: u64::MAX,
    };
    store.register(&router).await.unwrap();
    assert_eq!(
        store.routers().await.unwrap(),
        std::slice::from_ref(&router)
    );
    store.unregister("one", u64::MAX).await.unwrap();
    assert_eq!(store.routers().await.unwrap(), []);
    let unnamed = RouterEntry {
        name: "../one".to_owned(),
        ..router
    };
    let error = store.register(&unnamed).await.unwrap_err();
    assert!(
        matches!(error, PortError::Refused { status: 400, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("is not a router's name"),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_token_is_refused_and_writes_nothing() {
    let served = Served::start().await;
    let stranger = client(&served.url, "fedcba9876543210", &served.directory);
    let error = stranger.read().await.unwrap_err();
    assert!(
        matches!(error, PortError::Refused { status: 401, .. }),
        "{error}"
    );
    let (truth, version) = served.client().read().await.unwrap();
    let written = stranger.replace(&version, &truth.decide(truth.flags)).await;
    assert!(
        matches!(written, Err(WriteError::NotWritten(_))),
        "{written:?}"
    );
    assert_eq!(served.client().read().await.unwrap().1, version);
}

#[tokio::test]
async fn write_without_connection_is_not_written_and_one_without_answer_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let store = client(&url, TOKEN, &directory);
    let version = Version("1".to_owned());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let written = store.replace(&version, &Truth::default()).await;
    assert!(
        matches!(written, Err(WriteError::Unknown(_))),
        "{written:?}"
    );
    server.await.unwrap();
    // The listener is gone, so the connection is refused.
    let written = store.replace(&version, &Truth::default()).await;
    assert!(
        matches!(written, Err(WriteError::NotWritten(_))),
        "{written:?}"
    );
}

#[tokio::test]
async fn invalid_and_large_bodies_are_errors_as_json() {
    let served = Served::start().await;
    let http = crate::adapters::http::client(TIMEOUT).unwrap();
    let put = |body: Vec<u8>| {
        let request = http.put(format!("{}/truth", served.url));
        request.bearer_auth(TOKEN).body(body).send()
    };
    for (body, status) in [(b"{}".to_vec(), 400), (vec![b' '; 2 << 20], 413)] {
        let answer = put(body).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let object: serde_json::Value = answer.json().await.unwrap();
        assert!(object["error"].is_string(), "{object}");
    }
}

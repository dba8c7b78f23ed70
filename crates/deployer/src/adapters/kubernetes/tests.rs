//! The adapters against a small API server of the tests. `tests/kubernetes/run` has a real one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    api::Api,
    rollout::{Rollout, check_same_image, judge},
    truth::ConfigMapStore,
};
use crate::{
    cluster::{RouterFlags, Truth},
    color::Color,
    ports::{RouterEntry, TruthStore as _, Version, WriteError},
};

/// Each ConfigMap by name, with its `resourceVersion`.
type Objects = Arc<Mutex<BTreeMap<String, (u64, Value)>>>;

struct Cluster {
    objects: Objects,
    task: JoinHandle<()>,
    directory: tempfile::TempDir,
    url: String,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    async fn start() -> Self {
        let objects = Objects::default();
        let routes = Router::new()
            .route("/api/v1/namespaces/models/configmaps", post(create))
            .route(
                "/api/v1/namespaces/models/configmaps/{name}",
                get(read).patch(patch),
            )
            .with_state(objects.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "a-token\n").unwrap();
        Self {
            objects,
            task,
            directory,
            url,
        }
    }

    fn put(&self, name: &str, data: Value) {
        let object = (1, data);
        self.objects.lock().unwrap().insert(name.to_owned(), object);
    }

    fn store(&self) -> ConfigMapStore {
        let token = self.directory.path().join("token");
        ConfigMapStore::new(Api::at(self.url.clone(), token), "truth")
    }
}

fn shown((version, data): &(u64, Value)) -> Response {
    let metadata = json!({"resourceVersion": version.to_string()});
    Json(json!({"metadata": metadata, "data": data})).into_response()
}

async fn read(State(objects): State<Objects>, Path(name): Path<String>) -> Response {
    match objects.lock().unwrap().get(&name) {
        Some(object) => shown(object),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn create(State(objects): State<Objects>, Json(new): Json<Value>) -> Response {
    let name = new["metadata"]["name"].as_str().unwrap().to_owned();
    let mut objects = objects.lock().unwrap();
    if objects.contains_key(&name) {
        return StatusCode::CONFLICT.into_response();
    }
    let object = (1, json!({}));
    objects.insert(name, object.clone());
    (StatusCode::CREATED, shown(&object)).into_response()
}

/// A merge patch, with 409 for a stale `resourceVersion`.
async fn patch(State(objects): State<Objects>, Path(name): Path<String>, body: String) -> Response {
    let patch: Value = serde_json::from_str(&body).unwrap();
    let mut objects = objects.lock().unwrap();
    let Some((version, data)) = objects.get_mut(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let wanted = patch["metadata"]["resourceVersion"].as_str();
    if wanted.is_some_and(|wanted| wanted != version.to_string()) {
        let message = json!({"kind": "Status", "message": "the object has been modified"});
        return (StatusCode::CONFLICT, Json(message)).into_response();
    }
    *version += 1;
    for (key, value) in patch["data"].as_object().unwrap() {
        match value {
            Value::Null => drop(data.as_object_mut().unwrap().remove(key)),
            value => data[key] = value.clone(),
        }
    }
    shown(&(*version, data.clone()))
}

#[tokio::test]
async fn truth_is_replaced_on_the_version_that_was_read_and_on_no_other() {
    let cluster = Cluster::start().await;
    cluster.put("truth", json!({"active": "green"}));
    let store = cluster.store();
    let (truth, version) = store.read().await.unwrap();
    assert_eq!(truth.flags.active, Color::Green);
    let next = truth.decide(RouterFlags {
        shadow: true,
        ..truth.flags
    });
    let second = store.replace(&version, &next).await.unwrap();
    assert_eq!(store.read().await, Ok((next.clone(), second.clone())));
    let stale = store.replace(&version, &next.decide(truth.flags)).await;
    assert!(matches!(stale, Err(WriteError::Conflict)), "{stale:?}");
    assert_eq!(store.read().await, Ok((next, second)));
}

#[tokio::test]
async fn missing_or_empty_truth_is_no_new_one() {
    let cluster = Cluster::start().await;
    let store = cluster.store();
    let error = store.read().await.unwrap_err().to_string();
    assert!(error.contains("kubectl create configmap truth"), "{error}");
    let version = Version("1".to_owned());
    let written = store.replace(&version, &Truth::default()).await;
    assert!(
        matches!(written, Err(WriteError::NotWritten(_))),
        "{written:?}"
    );
    for data in [json!({}), json!({"active": "red"}), json!({"truth": "{"})] {
        cluster.put("truth", data);
        store.read().await.unwrap_err();
    }
}

#[tokio::test]
async fn routers_register_and_unregister_without_touching_the_truth_or_each_other() {
    let cluster = Cluster::start().await;
    cluster.put("truth", json!({"active": "blue"}));
    let store = cluster.store();
    assert_eq!(store.routers().await, Ok(Vec::new()));
    let version = store.read().await.unwrap().1;
    let router = |name: &str, incarnation| RouterEntry {
        name: name.to_owned(),
        url: format!("http://{name}"),
        incarnation,
    };
    for entry in [
        router("router-1", 1),
        router("router-0", 2),
        router("router-1", 3),
    ] {
        store.register(&entry).await.unwrap();
    }
    store.unregister("router-1", 1).await.unwrap();
    let both = vec![router("router-0", 2), router("router-1", 3)];
    assert_eq!(store.routers().await, Ok(both));
    store.unregister("router-1", 3).await.unwrap();
    assert_eq!(store.routers().await, Ok(vec![router("router-0", 2)]));
    assert_eq!(store.read().await.unwrap().1, version);
}

fn deployment(observed: u64, updated: u64, ready: u64, all: u64) -> Value {
    json!({
        "metadata": {"generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": observed, "updatedReplicas": updated,
            "readyReplicas": ready, "replicas": all},
    })
}

#[test]
fn rollout_is_done_when_every_replica_is_new_and_ready() {
    assert_eq!(judge(&deployment(2, 2, 2, 2), &[]), Rollout::Done);
    // The status of the generation before, an old pod that still ends, and a replica that is not ready.
    for going_on in [(1, 2, 2, 2), (2, 2, 2, 3), (2, 2, 1, 2)] {
        let (observed, updated, ready, all) = going_on;
        let judged = judge(&deployment(observed, updated, ready, all), &[]);
        assert_eq!(
            judged,
            Rollout::Running { ready, wanted: 2 },
            "{going_on:?}"
        );
    }
}

#[test]
fn crashing_replica_and_missing_image_end_a_rollout_with_their_reason() {
    let pod = |reason: &str| {
        let waiting = json!({"reason": reason, "message": "back-off 10s"});
        let status = json!({"state": {"waiting": waiting},
            "lastState": {"terminated": {"exitCode": 3}}});
        json!({"metadata": {"name": "green-1"}, "status": {"containerStatuses": [status]}})
    };
    let running = deployment(2, 2, 1, 2);
    let Rollout::Failed(reason) = judge(&running, &[pod("CrashLoopBackOff")]) else {
        panic!("it goes on");
    };
    assert_eq!(
        reason,
        "pod green-1: CrashLoopBackOff: back-off 10s; it exited with 3 before"
    );
    let starting = judge(&running, &[pod("ContainerCreating")]);
    assert_eq!(
        starting,
        Rollout::Running {
            ready: 1,
            wanted: 2
        }
    );
    let mut ending = pod("CrashLoopBackOff");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(judge(&running, &[ending]), starting);
    // A pod of an earlier start crashes until it ends.
    let mut earlier = pod("CrashLoopBackOff");
    earlier["metadata"]["annotations"] = json!({"deployer/started": "2026-01-01T00:00:00Z"});
    assert_eq!(judge(&running, &[earlier]), starting);
}

#[test]
fn replicas_of_different_images_are_told() {
    let pod = |name: &str, image: &str| json!({"metadata": {"name": name}, "status": {"containerStatuses": [{"imageID": image}]}});
    check_same_image(&[pod("a", "sha256:1"), pod("b", "sha256:1")]).unwrap();
    let error = check_same_image(&[pod("a", "sha256:1"), pod("b", "sha256:2")]).unwrap_err();
    assert!(error.to_string().contains("b runs sha256:2"), "{error}");
}

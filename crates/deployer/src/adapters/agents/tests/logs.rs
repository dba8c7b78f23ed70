//! The logs of several routers as one.

use std::sync::Arc;

use crate::{
    adapters::{
        agents::{LogKind, MergedLog, tests::fakes::Cluster, trim_mirrors},
        user_agent::UserAgent,
    },
    ports::{LogCursor, LogPart, RequestLog as _},
};

/// A line of an access log, about a request that ended at this time.
fn line(id: &str, seconds: f64) -> String {
    let line = serde_json::json!({
        "time": "2026-01-01T00:00:00+00:00", "seconds": seconds, "request_id": id, "method": "POST",
        "uri": "/predict", "status": 200, "wanted": "blue", "answered": "blue", "client": "curl/8",
        "remote_addr": "192.0.2.1", "pid": 7, "connection": 3, "connection_requests": 1, "label": "",
        "version": "v1", "digest": "", "upstream_addr": "127.0.0.1:8081", "upstream_status": "200",
        "upstream_connect_time": "0.000", "upstream_header_time": "0.001",
        "upstream_response_time": "0.002", "upstream_response_length": "90",
        "upstream_content_length": "90", "request_time": 0.003, "request_length": 150,
        "bytes_sent": 200,
    });
    format!("{line}\n")
}

/// Adds lines to the log of the router at this place.
fn add(cluster: &Cluster, router: usize, lines: &[(&str, f64)]) {
    let mut state = cluster.agents[router].lock();
    let log = state.access_log.as_mut().unwrap();
    for (id, seconds) in lines {
        log.extend(line(id, *seconds).into_bytes());
    }
}

fn merged(cluster: &Cluster) -> MergedLog {
    let state = cluster.state().to_owned();
    let user_agent = Arc::new(UserAgent::of_installation(&state));
    MergedLog::new(LogKind::Access, cluster.routers.clone(), state, user_agent)
}

async fn read(log: &MergedLog, after: Option<LogCursor>) -> (Vec<String>, LogPart) {
    let part = log.read(after).await.unwrap();
    assert_eq!(part.unparsable, 0);
    let ids = part.requests.iter().map(|request| {
        let (id, router) = request.id.split_once(" at ").unwrap();
        assert!(router.starts_with('r'), "{router}");
        id.to_owned()
    });
    (ids.collect(), part)
}

#[tokio::test]
async fn logs_are_merged_by_time_and_each_request_is_read_once() {
    let cluster = Cluster::of(2).await;
    let log = merged(&cluster);
    add(&cluster, 0, &[("a", 10.0), ("c", 12.0)]);
    add(&cluster, 1, &[("b", 11.0), ("d", 13.0)]);
    let (ids, part) = read(&log, None).await;
    assert_eq!(ids, ["a", "b", "c", "d"]);
    let named = part.requests.iter().map(|request| request.id.as_str());
    assert_eq!(
        named.collect::<Vec<_>>(),
        ["a at r1", "b at r2", "c at r1", "d at r2"]
    );
    add(&cluster, 1, &[("e", 14.0)]);
    // Another process copies in between.
    let (ids, _) = read(&merged(&cluster), None).await;
    assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    let (ids, part) = read(&log, Some(part.next)).await;
    assert_eq!(ids, ["e"]);
    assert!(read(&log, Some(part.next)).await.0.is_empty());
}

#[tokio::test]
async fn missing_log_is_named_and_its_requests_come_later() {
    let cluster = Cluster::of(2).await;
    let log = merged(&cluster);
    add(&cluster, 0, &[("a", 10.0)]);
    add(&cluster, 1, &[("b", 11.0)]);
    let (_, part) = read(&log, None).await;
    assert_eq!(part.missing, None);
    cluster.agents[1].lock().silent = true;
    add(&cluster, 0, &[("c", 12.0)]);
    add(&cluster, 1, &[("d", 13.0)]);
    let (ids, part) = read(&log, Some(part.next)).await;
    assert_eq!(ids, ["c"]);
    let missing = part.missing.unwrap().to_string();
    assert!(missing.starts_with("the log of router r2: "), "{missing}");
    cluster.agents[1].lock().silent = false;
    let (ids, part) = read(&log, Some(part.next)).await;
    assert_eq!((ids, part.missing), (vec!["d".to_owned()], None));
}

#[tokio::test]
async fn logs_that_no_router_has_are_an_error() {
    let cluster = Cluster::of(2).await;
    for agent in &cluster.agents {
        agent.lock().access_log = None;
    }
    let error = merged(&cluster).read(None).await.unwrap_err().to_string();
    assert!(
        error.contains("router r1") && error.contains("router r2"),
        "{error}"
    );
}

#[tokio::test]
async fn emptied_logs_and_copies_are_read_on() {
    let cluster = Cluster::of(1).await;
    let log = merged(&cluster);
    add(&cluster, 0, &[("a", 10.0), ("b", 11.0), ("c", 12.0)]);
    let (_, part) = read(&log, None).await;
    // The router empties its log.
    cluster.agents[0].lock().access_log = Some(Vec::new());
    add(&cluster, 0, &[("d", 13.0)]);
    let (ids, part) = read(&log, Some(part.next)).await;
    assert_eq!(ids, ["d"]);
    // This machine empties its copy.
    trim_mirrors(cluster.state(), 100).unwrap();
    let copy = cluster.state().join("routers/r1/access.log");
    assert_eq!(copy.metadata().unwrap().len(), 0);
    add(&cluster, 0, &[("e", 14.0)]);
    let (ids, _) = read(&log, Some(part.next)).await;
    assert_eq!(ids, ["e"]);
}

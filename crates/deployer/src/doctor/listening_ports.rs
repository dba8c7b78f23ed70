//! Which processes listen on which ports.

use tokio::net::TcpStream;

use crate::{
    adapters::{self, listeners},
    config::Settings,
    doctor::finding::Finding,
};

/// The processes that listen on the port of an address of this machine; `None` for another machine.
pub(crate) fn listeners_at(url: &str) -> Option<Vec<String>> {
    let port = listeners::local_port(url)?;
    Some(listeners::on(port))
}

/// The same as a sentence part; `None` if no process listens.
pub(crate) fn taken_by(url: &str) -> Option<String> {
    let processes = listeners_at(url)?;
    (!processes.is_empty()).then(|| processes.join(", "))
}

/// Whether a process listens at the router's address.
pub(crate) async fn of_the_router(settings: &Settings, url: &str, whose: &str) -> Finding {
    const TOPIC: &str = "port";

    match listeners_at(url).as_deref() {
        None => Finding::fine(TOPIC, format!("{url} is on another machine")),
        // Docker can forward connections without a listening process.
        Some([]) if !connects(settings, url).await => Finding::wrong(
            TOPIC,
            format!("no process listens at {url}, where {whose} expect the router"),
            "`deployer up` starts the router; or correct router.url and router.control",
        ),
        Some([]) => Finding::fine(
            TOPIC,
            format!("{url}: no process; the kernel forwards connections"),
        ),
        Some(processes) => Finding::fine(TOPIC, format!("{url}: {}", processes.join(", "))),
    }
}

async fn connects(settings: &Settings, url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else {
        return false;
    };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return false;
    };
    let host = host.trim_matches(['[', ']']);
    let connection = TcpStream::connect((host, port));
    let connected = tokio::time::timeout(settings.probe.timeout, connection).await;
    matches!(connected, Ok(Ok(_)))
}

/// Whether `deployer monitor` serves the metrics.
pub(crate) async fn metrics(settings: &Settings) -> Option<Finding> {
    const TOPIC: &str = "metrics";
    /// Only the monitor exports this metric.
    const OURS: &str = "deployer_router_up";

    let url = format!("http://{}/metrics", settings.monitor.metrics?);
    let response = adapters::text_of(&url, settings.probe.timeout).await;
    Some(match (response, taken_by(&url)) {
        (Ok(text), _) if text.contains(OURS) => Finding::fine(TOPIC, url),
        (_, Some(who)) => Finding::wrong(
            TOPIC,
            format!("{url}, where `deployer monitor` is to serve, is taken: {who}"),
            "stop the program that listens there, or give monitor.metrics another port; then start `deployer monitor` again",
        ),
        (_, None) => Finding::wrong(
            TOPIC,
            format!("no process serves {url} (monitor.metrics): `deployer monitor` does not run"),
            "start `deployer monitor`, or set monitor.metrics to \"\"",
        ),
    })
}

//! Deployments of other people's servers: real Python servers under uvicorn, with the process fleet and with all gates that
//! a server makes possible.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::ensure;
use end_to_end::{BakeDuration, Clients, Stack, Traffic, TrafficLog, repository};
use serde_json::json;

const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);
/// Long enough that a fault is detected on a slow machine too.
const LONG_BAKE: &str = "30s";
/// Two equal releases that answer so many labeled inputs pass the gate `golden`.
const INPUTS: usize = 120;

type Result<T = ()> = anyhow::Result<T>;

/// A server, and the settings that it needs.
struct Server {
    /// The module in `tests/other-servers`.
    module: &'static str,
    /// Arguments of uvicorn.
    arguments: &'static str,
    health_path: &'static str,
    predict_path: &'static str,
    label: &'static str,
    /// The JSON pointer to the confidence.
    confidence: &'static str,
    /// The gates after those that run for each server.
    last_gate: &'static str,
    /// The deployer's API key, and the header of the clients with theirs.
    keys: Option<(&'static str, &'static str)>,
}

/// What most servers have.
const COMMON: Server = Server {
    module: "reporting",
    // nginx closes an idle connection after 30 s, so the server must wait longer.
    arguments: "--timeout-keep-alive 75",
    health_path: "/health",
    predict_path: "/predict",
    label: "/prediction",
    confidence: "/confidence",
    last_gate: "headroom",
    keys: None,
};

impl Server {
    fn input(&self, number: usize) -> serde_json::Value {
        let quality = if number.is_multiple_of(2) {
            "good"
        } else {
            "bad"
        };
        let text = format!("film {number} is {quality}");
        match self.module {
            "bare" => json!({"texts": [text]}),
            _ => json!({"text": text}),
        }
    }

    fn stack(&self) -> Result<Stack> {
        let python = repository().join("target/tools-servers/bin/python");
        ensure!(
            python.is_file(),
            "{} is missing: run `scripts/setup test`",
            python.display()
        );
        let directory: PathBuf = repository().join("tests/other-servers");
        // With `exec`, the deployer's signals reach the server instead of the shell.
        let command = format!(
            "exec {} -m uvicorn --host $HOST --port $PORT --no-access-log --app-dir {} {} {}:app",
            python.display(),
            directory.display(),
            self.arguments,
            self.module
        );
        let stack = Stack::with_command(
            &["sh", "-c", &command],
            BakeDuration(Duration::from_secs(3)),
        )?;
        let examples: String = (0..INPUTS)
            .map(|number| {
                let label = if number.is_multiple_of(2) {
                    "positive"
                } else {
                    "negative"
                };
                json!({"input": self.input(number), "expect": label}).to_string() + "\n"
            })
            .collect();
        std::fs::write(stack.path("inputs.jsonl"), examples)?;
        if let Some((key, _)) = self.keys {
            std::fs::write(stack.path("key"), key)?;
        }
        stack.replace_settings(&self.settings())?;
        Ok(stack)
    }

    fn settings(&self) -> String {
        format!(
            r#"
[release]
model = "reviews"
model_root = ""

[probe]
health_path = "{health_path}"
predict_path = "{predict_path}"
label = "{label}"
confidence = "{confidence}"
inputs = "inputs.jsonl"
api_key_file = "{api_key_file}"

# Python may need seconds to start.
[health]
stall = "20s"
interval = "200ms"

[gates]
run = [
    "identity", "reachable", "smoke", "golden", "agreement", "load", "comparison", "{last_gate}"
]

[load]
concurrency = 8
duration = "1s"
max_p99 = "10s"

# Both releases, the clients, and other tests share two cores.
[comparison]
negligible = "1m"
duration = "1s"

[shadow]
duration = "2s"
negligible = "1m"

[bake]
duration = "3s"
interval = "200ms"
negligible = "1m"
"#,
            health_path = self.health_path,
            predict_path = self.predict_path,
            label = self.label,
            confidence = self.confidence,
            api_key_file = self.keys.map_or("", |_| "key"),
            last_gate = self.last_gate,
        )
    }

    fn start_traffic(&self, stack: &Stack) -> Traffic {
        let clients = Clients {
            path: self.predict_path,
            header: self.keys.map(|(_, client)| ("authorization", client)),
            ..Clients::predicting(
                (0..INPUTS)
                    .map(|number| self.input(number).to_string())
                    .collect(),
            )
        };
        Traffic::start_clients(stack.router_address(), CONNECTIONS, PAUSE, clients)
    }

    /// What a client receives from a release: its version, if predictions name it.
    fn answer_of(&self, version: &'static str) -> &'static str {
        match self.predict_path {
            "/predict" => version,
            _ => "status 200 OK",
        }
    }

    /// Starts the stack, promotes v2 under load, and deploys the two bad releases. The first one must be refused, and the
    /// second one rolled back. Returns the record of all requests.
    async fn deploy_all(&self, refused: BadRelease, rolled_back: BadRelease) -> Result<TrafficLog> {
        let stack = self.stack()?;
        stack.expect_exit(0, &["up"]).await?;
        let traffic = self.start_traffic(&stack);
        traffic.wait_for_requests(200).await?;

        let promoted = stack.expect_exit(0, &["deploy", "v2"]).await?;
        ensure!(
            promoted.stdout.contains("promoted: v2 on green"),
            "{promoted:?}"
        );
        traffic.wait_for_requests(traffic.count() + 200).await?;
        let until = Instant::now();
        traffic.snapshot().ensure_none_failed()?;

        let asked_before = stack.count_logged_requests("blue")?;
        refused.deploy(&stack, 10).await?;
        ensure!(
            stack.count_logged_requests("blue")? == asked_before,
            "a client request was sent to a refused release"
        );
        traffic.snapshot().ensure_none_failed()?;

        let run = rolled_back.deploy(&stack, 20).await?;
        ensure!(
            stack.count_logged_requests("blue")? > asked_before,
            "no client request was sent to the release that was rolled back: {run:?}"
        );
        traffic.wait_for_requests(traffic.count() + 200).await?;
        let log = traffic.stop().await;
        for (from, until) in [(promoted.returned, until), (run.returned, Instant::now())] {
            log.between(from, until)
                .ensure_answered_only_by(self.answer_of("v2"))?;
        }
        Ok(log)
    }
}

/// A release that must not stay.
struct BadRelease {
    version: &'static str,
    /// More arguments of the deployment.
    arguments: &'static [&'static str],
    /// Parts of the possible reasons.
    reasons: &'static [&'static str],
}

impl BadRelease {
    /// Deploys the release beside the active v2 on green. Fails unless it does not stay, for one of the reasons.
    async fn deploy(&self, stack: &Stack, code: i32) -> Result<end_to_end::DeployerRun> {
        let mut arguments = vec!["deploy", self.version, "--bake", LONG_BAKE];
        arguments.extend(self.arguments);
        let run = stack.expect_exit(code, &arguments).await?;
        let status = stack.status().await?;
        let deployment = &status["last_deployment"];
        let reason = deployment["reason"].as_str().unwrap_or_default();
        ensure!(
            self.reasons
                .iter()
                .any(|expected| reason.contains(expected)),
            "{}: {reason}",
            self.version
        );
        ensure!(status["active"] == "green", "{status}");
        ensure!(status["colors"][1]["healthy"] == true, "{status}");
        Ok(run)
    }
}

/// A fault that only clients meet. It begins when the deployer has checked the switch, so the router passes the release
/// over only later.
const FAILS_CLIENTS: BadRelease = BadRelease {
    version: "fails-after-check",
    arguments: &[],
    reasons: &["requests failed"],
};

#[tokio::test(flavor = "multi_thread")]
async fn server_that_reports_version_and_counters_is_deployed() -> Result {
    let wrong = BadRelease {
        version: "wrong",
        arguments: &[],
        reasons: &["golden"],
    };
    let log = COMMON.deploy_all(wrong, FAILS_CLIENTS).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_reports_nothing_is_deployed() -> Result {
    let server = Server {
        module: "bare",
        arguments: "",
        health_path: "/-/alive",
        predict_path: "/v1/classify",
        label: "/results/0/label",
        confidence: "/results/0/score",
        ..COMMON
    };
    let never_healthy = BadRelease {
        version: "never-healthy",
        arguments: &["--set", "health.stall=6s"],
        reasons: &["answered 503"],
    };
    let answers_nothing = BadRelease {
        version: "answers-nothing",
        arguments: &[],
        reasons: &["its answers have another size"],
    };
    let log = server.deploy_all(never_healthy, answers_nothing).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_four_processes_is_deployed() -> Result {
    let server = Server {
        module: "counting",
        arguments: "--timeout-keep-alive 75 --workers 4",
        ..COMMON
    };
    let fails_some = BadRelease {
        version: "fails-some",
        arguments: &[],
        // The router passes a color over that fails, so a health check of clients may reach the standby.
        reasons: &["requests failed", "clients are answered by another release"],
    };
    let crashes = BadRelease {
        version: "crashes",
        arguments: &[],
        reasons: &["requests failed", "its uptime fell"],
    };
    let log = server.deploy_all(fails_some, crashes).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_path_shadow_is_deployed() -> Result {
    let server = Server {
        module: "shadow",
        predict_path: "/shadow",
        last_gate: "shadow",
        ..COMMON
    };
    // Copies of the clients' requests fail.
    let refused = BadRelease {
        version: "fails-clients",
        arguments: &[],
        reasons: &["shadow"],
    };
    let rolled_back = BadRelease {
        arguments: &["--set", "gates.run=[\"identity\", \"smoke\"]"],
        ..FAILS_CLIENTS
    };
    let log = server.deploy_all(refused, rolled_back).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_refuses_unknown_keys_is_deployed() -> Result {
    let server = Server {
        module: "keyed",
        keys: Some(("key-of-the-deployer", "Bearer key-of-the-clients")),
        ..COMMON
    };
    let forgets_deployer = BadRelease {
        version: "forgets-deployer",
        arguments: &[],
        reasons: &["401"],
    };
    let forgets_clients = BadRelease {
        version: "forgets-clients",
        arguments: &[],
        reasons: &["401"],
    };
    let log = server.deploy_all(forgets_deployer, forgets_clients).await?;
    // A refusal is passed on to the client.
    let failures = log.failures();
    ensure!(
        failures.keys().eq([&"status 401 Unauthorized"]),
        "{failures:?}"
    );
    Ok(())
}

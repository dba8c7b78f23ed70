//! Problems of Docker and of containers.

use crate::{
    adapters::{
        compose::{ComposeFleet, container::Container},
        version,
    },
    deployment::preflight,
    doctor::finding::{Finding, last_log_lines},
    ports::{Fleet as _, FleetDiagnosis as _, PortError, Service, ServiceState},
};

/// The version of Debian 11 and 12. Older versions are untested.
const OLDEST_ENGINE: (u64, u64) = (20, 10);
/// The version of Ubuntu 22.04.
const OLDEST_COMPOSE: (u64, u64) = (2, 20);

const INSTALL: &str = "install Docker Engine 20.10 or later with its plugin Compose 2.20 or later, or set fleet.kind to process, which needs no Docker";

impl ComposeFleet {
    pub(super) async fn examine(&self) -> Vec<Finding> {
        let format = "{{.Server.Version}}";
        let engine = self.docker(&["version", "--format", format]).await;
        let compose = self.docker(&["compose", "version", "--short"]).await;
        if matches!(engine, Err(PortError::NoProgram(_))) {
            return vec![judge_engine(engine)];
        }
        let usable = engine.is_ok() && compose.is_ok();
        let mut findings = vec![judge_engine(engine), judge_compose(compose)];
        if usable {
            findings.extend(self.room().await);
            findings.extend(self.containers().await);
            findings.extend(self.nginx().await);
        }
        findings
    }

    /// Checks the disk of images and containers. Skipped for an engine elsewhere.
    async fn room(&self) -> Option<Finding> {
        const TOPIC: &str = "disk";

        let format = "{{.Name}}\n{{.DockerRootDir}}";
        let printed = self.docker(&["info", "--format", format]).await.ok()?;
        let (machine, directory) = printed.trim_end().split_once('\n')?;
        if machine != rustix::system::uname().nodename().to_string_lossy() {
            return None;
        }
        let free = preflight::free_megabytes(directory.as_ref()).ok()?;
        let text = format!("{free} MB free for Docker in {directory}");
        let needed = self.min_free_megabytes;
        if free >= needed {
            return Some(Finding::fine(TOPIC, text));
        }
        Some(Finding::wrong(
            TOPIC,
            format!("{text}, {needed} MB are needed (min_free_megabytes)"),
            "`docker system df` shows what takes it, `docker system prune` frees what nothing uses",
        ))
    }

    async fn containers(&self) -> Vec<Finding> {
        // A Compose file of the user's own may lack these services.
        const EXTRA: [&str; 2] = ["prepare", "monitor"];

        let services = match self.compose(&["config", "--services"]).await {
            Ok(services) => services,
            Err(error) => {
                let advice = format!(
                    "correct {} or {}",
                    self.settings.file.display(),
                    self.settings.environment_file.display()
                );
                return vec![Finding::wrong("compose", error.to_string(), advice)];
            }
        };
        let extra = EXTRA
            .into_iter()
            .filter(|name| services.lines().any(|service| service == *name));
        let mut findings = Vec::new();
        for name in ["router", "blue", "green"].into_iter().chain(extra) {
            let topic = format!("container {name}");
            match self.container(name).await {
                Ok(Some(container)) => {
                    let mut finding = judge(name, topic, &container);
                    // Log lines of the other containers are reported with the router and the colors.
                    if EXTRA.contains(&name) && finding.advice.is_some() {
                        let lines = self.last_lines(name, 3).await;
                        finding.text += &last_log_lines(&lines);
                    }
                    findings.push(finding);
                }
                // Reported with the router and the colors; other services may be unwanted.
                Ok(None) => {}
                Err(error) => {
                    let advice = "see `docker compose ps`";
                    findings.push(Finding::wrong(topic, error.to_string(), advice));
                }
            }
        }
        findings
    }

    /// Checks nginx's version and its files; `None` while it does not run.
    async fn nginx(&self) -> Option<Finding> {
        const TOPIC: &str = "nginx";
        // As root with the `user` directive of compose.yaml's command.
        const TEST: &str = "[ \"$(id -u)\" -ne 0 ] || as_root='user root;'
            nginx -p /tmp -c /etc/router/nginx.conf -e stderr -g \"${as_root:-}\" -t -q";

        let Ok((ServiceState::Running, _)) = self.inspect(Service::Router).await else {
            return None;
        };
        let in_router = |script| ["exec", "--no-TTY", "router", "sh", "-c", script];
        let (shown, test) = self.compose_command(&in_router(TEST));
        // These errors are nginx's, not Docker's.
        let tested = self.output(&shown, test).await;
        Some(
            match tested.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(_) => {
                    let version = self
                        .compose(&in_router("nginx -v 2>&1"))
                        .await
                        .unwrap_or_default();
                    let version = version.trim();
                    Finding::fine(TOPIC, format!("{version}; its configuration is valid"))
                }
                Err(reason) => {
                    let lines = self.logs(Service::Router, 3).await;
                    Finding::wrong(
                        TOPIC,
                        format!(
                            "`nginx -t` in the router failed: {reason}{}",
                            last_log_lines(&lines)
                        ),
                        "correct the files in nginx/, then `docker compose restart router`; until then nginx keeps the files that it has read",
                    )
                }
            },
        )
    }
}

fn judge_engine(output: Result<String, PortError>) -> Finding {
    const TOPIC: &str = "docker";
    const START: &str = "start the engine (`sudo systemctl start docker`), or let DOCKER_HOST name the one that runs";
    const MEMBER: &str =
        "let this user use it: `sudo usermod -aG docker $(id -un)`, then log in again";

    let version = match output {
        Ok(version) => version.trim().to_owned(),
        Err(error) => {
            let advice = match error {
                PortError::NoProgram(_) => INSTALL,
                PortError::PermissionDenied(_) => MEMBER,
                PortError::Unreachable(_)
                | PortError::TimedOut(_)
                | PortError::Refused { .. }
                | PortError::BadAnswer(_)
                | PortError::ProgramFailed(_)
                | PortError::Invalid(_)
                | PortError::Other(_) => START,
            };
            return Finding::wrong(TOPIC, format!("no engine: {error}"), advice);
        }
    };
    judge_version("engine", &version, OLDEST_ENGINE)
}

fn judge_compose(output: Result<String, PortError>) -> Finding {
    match output {
        Ok(version) => judge_version("Compose", version.trim(), OLDEST_COMPOSE),
        Err(error) => Finding::wrong(
            "docker",
            format!("no plugin Compose: {error}"),
            "install the plugin Compose 2.20 or later (the package docker-compose-v2, docker-compose-plugin or, from Debian 13 on, docker-compose)",
        ),
    }
}

fn judge_version(what: &str, version: &str, oldest: (u64, u64)) -> Finding {
    const TOPIC: &str = "docker";

    let (major, minor) = oldest;
    if version::is_older(version, oldest) {
        return Finding::wrong(
            TOPIC,
            format!("{what} {version} is too old: {major}.{minor} or later is needed"),
            INSTALL,
        );
    }
    Finding::fine(TOPIC, format!("{what} {version}"))
}

/// Describes the state of a service's container, or how it exited.
fn judge(name: &str, topic: String, container: &Container) -> Finding {
    let memory = match name {
        "router" => "ROUTER_MEMORY in .env",
        "blue" | "green" => "COLOR_MEMORY in .env",
        _ => "its mem_limit in compose.yaml",
    };
    let start = match name {
        "monitor" => "`docker compose up --detach monitor` starts it",
        // It runs before the router.
        _ => "`deployer up` starts it",
    };
    let state = &container.state;
    let (status, code, image) = (&state.status, state.exit_code, &container.config.image);
    let restarts = container.restart_count;
    match status.as_str() {
        _ if state.wanted_too_much_memory => Finding::wrong(
            topic,
            format!("{status}: it was killed because it wanted more memory than it may have"),
            format!("raise {memory}, or deploy a smaller model"),
        ),
        "running" if restarts == 0 => Finding::fine(topic, format!("running {image}")),
        "running" => Finding::wrong(
            topic,
            format!("running {image}, but Docker had to start it again (restarts: {restarts})"),
            format!("`docker compose logs {name}` says why it ended"),
        ),
        "paused" => Finding::wrong(
            topic,
            "paused",
            format!("`docker compose unpause {name}` lets it go on"),
        ),
        "exited" if name == "prepare" && code == 0 => Finding::fine(topic, "it has done its work"),
        _ if !state.error.is_empty() => Finding::wrong(
            topic,
            format!("{status}: Docker could not start it: {}", state.error),
            format!("solve what Docker reports; {start}"),
        ),
        // Some engines do not report the kernel's reason.
        _ if code == 137 => Finding::wrong(
            topic,
            format!("{status}, exit code 137: SIGKILL ended it"),
            format!("if no person killed it, it needed more memory than {memory} allows; {start}"),
        ),
        _ => Finding::wrong(
            topic,
            format!("{status}, exit code {code}"),
            format!("`docker compose logs {name}` says why; {start}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn engine_finding_advises_by_kind_of_error() {
        let advice = |error| judge_engine(Err(error)).advice.unwrap();
        let text = || "docker fails".to_owned();
        assert!(advice(PortError::NoProgram(text())).starts_with("install Docker Engine"));
        assert!(advice(PortError::PermissionDenied(text())).contains("usermod -aG docker"));
        for error in [
            PortError::Unreachable(text()),
            PortError::TimedOut(text()),
            PortError::ProgramFailed(text()),
        ] {
            assert!(advice(error).starts_with("start the engine"));
        }
    }

    /// No real container: some engines do not report `OOMKilled`, such as Docker 20.10 with cgroup version 1.
    #[test]
    fn out_of_memory_kill_is_named() {
        let container = json!({
            "State": {"Status": "restarting", "ExitCode": 137, "OOMKilled": true, "Error": ""},
            "RestartCount": 3,
            "Config": {"Image": "model-server:latest", "StopTimeout": 45, "Env": []},
        });
        let container: Container = serde_json::from_value(container).unwrap();
        let finding = judge("blue", "container blue".to_owned(), &container);
        let text = "restarting: it was killed because it wanted more memory than it may have";
        assert_eq!(finding.text, text);
        let advice = "raise COLOR_MEMORY in .env, or deploy a smaller model";
        assert_eq!(finding.advice.as_deref(), Some(advice));
    }
}

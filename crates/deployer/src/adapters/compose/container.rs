//! What Docker and Compose report about a container.

use serde::Deserialize;

use crate::ports::ServiceState;

/// A container, as `docker inspect` reports it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    #[serde(default)]
    pub(super) id: String,
    pub(super) state: ContainerState,
    pub(super) restart_count: u64,
    pub(super) config: ContainerConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerState {
    pub(super) status: String,
    pub(super) exit_code: i64,
    /// The number of its first process on the engine's machine; 0 if it does not run.
    #[serde(default)]
    pub(super) pid: i32,
    #[serde(rename = "OOMKilled")]
    pub(super) wanted_too_much_memory: bool,
    /// RFC 3339.
    #[serde(default)]
    pub(super) started_at: String,
    /// Why Docker could not start it, if so.
    pub(super) error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerConfig {
    pub(super) image: String,
    /// In seconds.
    pub(super) stop_timeout: Option<u64>,
}

/// Parses the output of `docker compose ps --format json`: one object per line, or a list of objects before
/// Compose 2.21.
pub(super) fn parse_state(printed: &str) -> Result<ServiceState, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        state: String,
        #[serde(default)]
        exit_code: i64,
        #[serde(default)]
        status: String,
    }

    let printed = printed.trim();
    let container = if printed.starts_with('[') {
        serde_json::from_str::<Vec<Container>>(printed)?.pop()
    } else {
        printed
            .lines()
            .next()
            .map(serde_json::from_str::<Container>)
            .transpose()?
    };
    Ok(match container {
        None => ServiceState::Stopped("there is no container".to_owned()),
        Some(container) if container.state == "running" => ServiceState::Running,
        Some(Container {
            state,
            exit_code,
            status,
        }) => {
            let how = format!("container {state}, exit code {exit_code} ({status})");
            if state == "paused" {
                ServiceState::Paused(how)
            } else {
                ServiceState::Stopped(how)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_state_has_reason_when_stopped() {
        let state = |printed| parse_state(printed).unwrap();
        let running = r#"{"Name":"x","State":"running","ExitCode":0,"Status":"Up 3 seconds"}"#;
        assert_eq!(state(running), ServiceState::Running);
        assert_eq!(
            state(
                r#"{"Name":"x","State":"exited","ExitCode":137,"Status":"Exited (137) 2 seconds ago"}"#
            ),
            ServiceState::Stopped(
                "container exited, exit code 137 (Exited (137) 2 seconds ago)".to_owned()
            )
        );
        assert_eq!(
            state(""),
            ServiceState::Stopped("there is no container".to_owned())
        );
    }

    #[test]
    fn paused_container_is_not_stopped() {
        let printed =
            r#"{"Name":"x","State":"paused","ExitCode":0,"Status":"Up 3 hours (Paused)"}"#;
        assert_eq!(
            parse_state(printed).unwrap(),
            ServiceState::Paused("container paused, exit code 0 (Up 3 hours (Paused))".to_owned())
        );
    }

    #[test]
    fn container_state_is_parsed_from_old_compose_list() {
        let state = |printed| parse_state(printed).unwrap();
        assert_eq!(
            state(r#"[{"Name":"x","State":"running","ExitCode":0}]"#),
            ServiceState::Running
        );
        assert_eq!(
            state("[]"),
            ServiceState::Stopped("there is no container".to_owned())
        );
    }

    #[test]
    fn unparsable_container_state_is_an_error() {
        assert!(parse_state("WARNING: something").is_err());
    }
}

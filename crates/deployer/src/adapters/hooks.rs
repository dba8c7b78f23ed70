//! Hooks: programs around the phases of a deployment.

use std::{path::PathBuf, process::Stdio};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::{
    config::{HooksSettings, Settings},
    deployment::{phase::Phase, plan::Plan},
    ports::{HookPoint, Hooks, PortError},
    report::Reports,
};

/// Runs the programs that the settings name.
pub(super) struct Commands {
    settings: HooksSettings,
    directory: PathBuf,
    reports: Reports,
}

impl Commands {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.hooks.clone(),
            directory: settings.directory.clone(),
            reports: Reports::of(&settings.state),
        }
    }

    /// Prepares a hook: it learns the deployment from its environment.
    fn command(
        &self,
        program: &str,
        arguments: &[String],
        phase: Phase,
        plan: &Plan,
        reason: Option<&str>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("DEPLOYMENT_ID", &plan.id)
            .env("DEPLOYMENT_PHASE", phase.name())
            .env("DEPLOYMENT_MODEL", &plan.release.model)
            .env("DEPLOYMENT_VERSION", &plan.release.version)
            .env(
                "DEPLOYMENT_DIGEST",
                plan.release.digest.as_deref().unwrap_or_default(),
            )
            .env("DEPLOYMENT_CANDIDATE", plan.idle.name())
            .env("DEPLOYMENT_PREVIOUS", plan.active.name())
            .env("DEPLOYMENT_REASON", reason.unwrap_or_default())
            .env("DEPLOYMENT_REPORT", self.reports.page(&plan.id))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Dropped when the deployer stops waiting: ends all that the program started.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(trace) = &plan.trace {
            command.env("TRACEPARENT", trace.traceparent());
        }
        command
    }
}

#[async_trait]
impl Hooks for Commands {
    async fn run(
        &self,
        point: HookPoint,
        phase: Phase,
        plan: &Plan,
        reason: Option<&str>,
    ) -> Result<(), PortError> {
        let (commands, moment) = match point {
            HookPoint::Before => (&self.settings.before, "before"),
            HookPoint::After => (&self.settings.after, "after"),
        };
        let Some((program, arguments)) = commands.get(&phase).and_then(|it| it.split_first())
        else {
            return Ok(());
        };
        let timeout = self.settings.timeout;
        let failed = |problem: String| {
            format!("the command {program} of hooks.{moment}, for {phase}, {problem}")
        };
        let child = self
            .command(program, arguments, phase, plan, reason)
            .spawn()
            .map_err(|error| PortError::NoProgram(failed(format!("cannot be run: {error}"))))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut end = EndOfGroup(group);
        let output = tokio::time::timeout(timeout, child.wait_with_output())
            .await
            .map_err(|_| {
                let timeout = humantime::format_duration(timeout);
                PortError::TimedOut(failed(format!("did not end within {timeout}")))
            })?
            .map_err(|error| PortError::Other(failed(format!("cannot be run: {error}"))))?;
        // A program may leave processes running on purpose.
        end.0 = None;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.trim().lines().next_back().unwrap_or_default();
        let colon = if last.is_empty() { "" } else { ": " };
        let message = failed(format!("ended with {}{colon}{last}", output.status));
        Err(PortError::ProgramFailed(message))
    }
}

/// Kills a process group when dropped.
struct EndOfGroup(Option<Pid>);

impl Drop for EndOfGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{color::Color, config, deployment::trace::DeploymentTrace, release::Release};

    async fn run(command: &[&str]) -> (Result<(), PortError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deployer.toml");
        let text =
            format!("[hooks]\ntimeout = \"300ms\"\n[hooks.before]\nswitched = {command:?}\n");
        std::fs::write(&file, text).unwrap();
        let settings = config::load(Some(&file), &[]).unwrap();
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        let plan = Plan {
            trace: Some(DeploymentTrace {
                id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
                span: "00f067aa0ba902b7".to_owned(),
                parent: None,
                sampled: true,
            }),
            ..Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release)
        };
        let hooks = Commands::new(&settings);
        hooks
            .run(HookPoint::After, Phase::Switched, &plan, None)
            .await
            .expect("no hook is set for this point");
        let result = hooks
            .run(HookPoint::Before, Phase::Switched, &plan, None)
            .await;
        let output = std::fs::read_to_string(directory.path().join("out")).unwrap_or_default();
        (result, output)
    }

    #[tokio::test]
    async fn hook_receives_deployment_in_environment() {
        let (result, output) = run(&[
            "sh",
            "-c",
            "echo $DEPLOYMENT_ID $DEPLOYMENT_PHASE $DEPLOYMENT_VERSION $DEPLOYMENT_CANDIDATE > out; echo $TRACEPARENT >> out",
        ])
        .await;
        assert_eq!(result, Ok(()));
        assert_eq!(
            output,
            "19700101T000000.000Z-v2 switched v2 green\n00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n"
        );
    }

    #[tokio::test]
    async fn hook_error_names_failure_timeout_and_missing_program() {
        let error_of = async |command: &[&str]| run(command).await.0.unwrap_err();
        let failing = error_of(&["sh", "-c", "echo not today >&2; exit 3"]).await;
        assert!(
            matches!(failing, PortError::ProgramFailed(_)),
            "{failing:?}"
        );
        assert!(
            failing
                .to_string()
                .contains("hooks.before, for switched, ended with exit status: 3: not today"),
            "{failing}"
        );
        let hanging = error_of(&["sh", "-c", "sleep 5 | sleep 5"]).await;
        assert!(matches!(hanging, PortError::TimedOut(_)), "{hanging:?}");
        let hanging = hanging.to_string();
        assert!(hanging.contains("did not end within 300ms"), "{hanging}");
        let missing = error_of(&["no-such-program"]).await;
        assert!(matches!(missing, PortError::NoProgram(_)), "{missing:?}");
        let missing = missing.to_string();
        assert!(
            missing.contains("no-such-program") && missing.contains("cannot be run"),
            "{missing}"
        );
    }
}

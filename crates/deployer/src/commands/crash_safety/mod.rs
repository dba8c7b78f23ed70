//! Kills a deployer at every kill point, then the next command at each of its own kill points. Asserts that
//! every state left by the kills is recovered.
//!
//! All commands run in this process, on virtual time, with real files (see [`machine`]). `tests/tests/` kills
//! real deployers at some of the same points.

mod invariants;
mod machine;
mod slow;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use crate::{
    color::Color,
    commands::crash_safety::machine::{Command, Ending, Machine, Run, Snapshot},
    deployment::phase::Phase,
    exit_code,
};

/// How many kills were tried.
#[derive(Debug, Default)]
struct Kills {
    /// Kills of the first command.
    points: usize,
    /// Kills of the first command, followed by a kill of the next one.
    pairs: usize,
}

/// The command that is killed, and the state before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// The first deployment: no standby is fit yet.
    FirstDeployment,
    /// A deployment to green.
    DeploymentToGreen,
    /// A deployment to blue.
    DeploymentToBlue,
    /// A deployment that waits for approval twice.
    ApprovedDeployment,
    /// A deployment whose hook fails before the switch.
    Refusal,
    /// A deployment whose hook fails after the switch.
    AutomaticRollback,
    /// A deployment in which another release answers clients after the switch.
    WrongRouter,
    /// `deployer rollback`, from green to blue.
    ManualRollback,
    /// `deployer switch green`.
    Switch,
    /// `deployer recover` after a deployer that was killed right after the switch.
    Recovery,
    /// `deployer recover --on-interrupt continue` after the same kill.
    ResumedBake,
    /// `deployer monitor` when the active color, green, has crashed.
    Failover,
}

impl Scenario {
    fn command(self) -> Command {
        match self {
            Self::FirstDeployment | Self::DeploymentToGreen | Self::DeploymentToBlue => {
                Command::Deploy("v4")
            }
            Self::ApprovedDeployment => Command::DeployWithApproval("v4"),
            Self::Refusal => Command::DeployWithFailingHook("v4", Phase::Switched),
            Self::AutomaticRollback => Command::DeployWithFailingHook("v4", Phase::Promoted),
            Self::WrongRouter => Command::DeployBehindWrongRouter("v4"),
            Self::ManualRollback => Command::Rollback,
            Self::Switch => Command::Switch(Color::Green),
            Self::Recovery => Command::Recover,
            Self::ResumedBake => Command::Resume,
            Self::Failover => Command::Monitor,
        }
    }

    /// The exit code of the command when it is not killed.
    fn exit_code(self) -> u8 {
        match self {
            Self::Refusal => exit_code::REFUSED,
            Self::AutomaticRollback | Self::WrongRouter => exit_code::ROLLED_BACK,
            _ => exit_code::FINE,
        }
    }

    /// The state before the command.
    async fn initial_state(self) -> Snapshot {
        match self {
            Self::FirstDeployment => Machine::fresh().snapshot(),
            Self::DeploymentToGreen
            | Self::ApprovedDeployment
            | Self::Refusal
            | Self::AutomaticRollback
            | Self::WrongRouter
            | Self::Switch => blue_active().await,
            Self::DeploymentToBlue | Self::ManualRollback => green_active().await,
            Self::Recovery | Self::ResumedBake => killed_after_switch().await,
            Self::Failover => {
                let machine = Machine::restore(&green_active().await);
                machine.crash(Color::Green);
                machine.snapshot()
            }
        }
    }
}

/// v2 on green has the traffic; v1 on blue is the fit standby.
async fn green_active() -> Snapshot {
    let machine = Machine::fresh();
    let deployed = machine.run(Command::Deploy("v2"), None).await;
    deployed.assert_success("deploy v2");
    machine.snapshot()
}

/// v3 on blue has the traffic; v2 on green is the fit standby.
async fn blue_active() -> Snapshot {
    let machine = Machine::restore(&green_active().await);
    let deployed = machine.run(Command::Deploy("v3"), None).await;
    deployed.assert_success("deploy v3");
    machine.snapshot()
}

/// The deployer of v4 was killed right after the switch to green.
async fn killed_after_switch() -> Snapshot {
    let initial = blue_active().await;
    let deploy = Command::Deploy("v4");
    let points = Machine::restore(&initial).run(deploy, None).await.points;
    let switched = points
        .iter()
        .position(|point| point == "after journal switched");
    let machine = Machine::restore(&initial);
    kill_at(&machine, deploy, switched.expect("a kill point"), &points).await
}

/// Kills the command of a scenario at each of its kill points, and each next command at each of its own.
async fn kill_at_every_point(scenario: Scenario, next: &[Command]) -> Kills {
    let (initial, first) = (scenario.initial_state().await, scenario.command());
    let unkilled = Machine::restore(&initial);
    let run = unkilled.run(first, None).await;
    assert_eq!(exit_code_of(&run), Some(scenario.exit_code()), "{first:?}");
    unkilled.assert_recovered().await;
    let mut kills = Kills::default();
    for (number, point) in run.points.iter().enumerate() {
        let machine = Machine::restore(&initial);
        let context = format!("{first:?}, killed at {point:?}");
        let after_kill = kill_at(&machine, first, number, &run.points).await;
        kills.points += 1;
        for next in next {
            kills.pairs += kill_next_command(&after_kill, *next, &context).await;
        }
    }
    kills
}

/// Runs `next` on the state after a kill: once to its end, and once for each of its kill points. Returns the
/// number of kill points.
async fn kill_next_command(after_kill: &Snapshot, next: Command, context: &str) -> usize {
    let machine = Machine::restore(after_kill);
    let unkilled = machine.run(next, None).await;
    let context = format!("{context}, then {next:?}");
    assert_recovers(&machine, &context).await;
    for (number, point) in unkilled.points.iter().enumerate() {
        let machine = Machine::restore(after_kill);
        kill_at(&machine, next, number, &unkilled.points).await;
        assert_recovers(&machine, &format!("{context}, killed at {point:?}")).await;
    }
    unkilled.points.len()
}

/// Kills a command at the kill point with this number, and asserts that it passed the same kill points as
/// without the kill. Returns the state after the kill.
async fn kill_at(
    machine: &Machine,
    command: Command,
    number: usize,
    points: &[String],
) -> Snapshot {
    let run = machine.run(command, Some(number)).await;
    assert!(
        matches!(run.ending, Ending::Killed),
        "{command:?} was not killed at {}",
        points[number]
    );
    assert_eq!(
        run.points,
        points[..=number],
        "{command:?} passed other kill points than without the kill"
    );
    machine.assert_invariants().await;
    machine.snapshot()
}

/// Asserts that `deployer recover` recovers the machine, together with the monitor if the active color is down.
/// A failure names the commands and kill points in `context`.
async fn assert_recovers(machine: &Machine, context: &str) {
    let recovery = async {
        machine
            .run(Command::Recover, None)
            .await
            .assert_success("recover");
        let active = machine.flags().active();
        if machine.server(active).running.is_none() {
            machine.assert_invariants().await;
            machine
                .run(Command::Monitor, None)
                .await
                .assert_success("monitor");
            assert_ne!(
                machine.flags().active(),
                active,
                "the monitor did not fail over"
            );
        }
        machine.assert_recovered().await;
    };
    if let Err(panic) = AssertUnwindSafe(recovery).catch_unwind().await {
        let text = panic
            .downcast_ref::<String>()
            .map_or("a panic without a message", String::as_str);
        panic!("{context}: {text}");
    }
}

fn exit_code_of(run: &Run) -> Option<u8> {
    match &run.ending {
        Ending::Completed(Ok(output)) => Some(output.code),
        _ => None,
    }
}

/// Asserts that every pair of kills of a scenario is recovered, and that the number of kill points has not fallen.
async fn assert_every_pair_is_recovered(
    scenario: Scenario,
    next: &[Command],
    points: usize,
    pairs: usize,
) {
    // Boxed: the future holds the futures of all commands, and is large.
    let kills = Box::pin(kill_at_every_point(scenario, next)).await;
    assert!(kills.points >= points, "{kills:?}");
    assert!(kills.pairs >= pairs, "{kills:?}");
}

/// Kills the command of the scenario, and then `deployer recover`.
async fn assert_recovered_when_recovery_is_killed(scenario: Scenario, points: usize, pairs: usize) {
    assert_every_pair_is_recovered(scenario, &[Command::Recover], points, pairs).await;
}

#[tokio::test(start_paused = true)]
async fn first_deployment_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::FirstDeployment, 26, 140).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_green_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::DeploymentToGreen, 26, 152).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_blue_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::DeploymentToBlue, 26, 152).await;
}

#[tokio::test(start_paused = true)]
async fn approved_deployment_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::ApprovedDeployment, 34, 200).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::Refusal, 22, 100).await;
}

#[tokio::test(start_paused = true)]
async fn automatic_rollback_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::AutomaticRollback, 30, 176).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_router_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::WrongRouter, 30, 176).await;
}

#[tokio::test(start_paused = true)]
async fn manual_rollback_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::ManualRollback, 12, 88).await;
}

#[tokio::test(start_paused = true)]
async fn switch_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::Switch, 12, 76).await;
}

#[tokio::test(start_paused = true)]
async fn recovery_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::Recovery, 10, 46).await;
}

#[tokio::test(start_paused = true)]
async fn resumed_bake_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::ResumedBake, 6, 22).await;
}

#[tokio::test(start_paused = true)]
async fn failover_is_recovered_from_every_pair_of_kills() {
    assert_recovered_when_recovery_is_killed(Scenario::Failover, 16, 120).await;
}

#[tokio::test(start_paused = true)]
async fn idle_color_never_gets_a_release_back_that_was_rolled_back_by_hand() {
    // v2 on green was promoted. Before, green held v0.
    let initial = green_active().await;
    let points = Machine::restore(&initial)
        .run(Command::Rollback, None)
        .await
        .points;
    let moved = points
        .iter()
        .position(|point| point == "after journal rolled back")
        .expect("a kill point");
    for number in moved..points.len() {
        let machine = Machine::restore(&initial);
        kill_at(&machine, Command::Rollback, number, &points).await;
        let refused = Command::DeployWithFailingHook("v3", Phase::Switched);
        let run = machine.run(refused, None).await;
        assert_eq!(exit_code_of(&run), Some(exit_code::REFUSED));
        let held = machine.server(Color::Green).running;
        assert_eq!(held.as_deref(), Some("v0"), "killed {}", points[number]);
    }
}

#[tokio::test(start_paused = true)]
async fn rollback_returns_to_a_promoted_candidate_that_replaced_its_own_version() {
    // Green holds v2 twice: before the deployment, and as its promoted candidate.
    let machine = Machine::restore(&green_active().await);
    for (command, active) in [
        (Command::Switch(Color::Blue), Color::Blue),
        (Command::Deploy("v2"), Color::Green),
        (Command::Switch(Color::Blue), Color::Blue),
        (Command::Rollback, Color::Green),
    ] {
        let run = machine.run(command, None).await;
        run.assert_success(&format!("{command:?}"));
        assert_eq!(machine.flags().active(), active, "{command:?}");
    }
    machine.assert_invariants().await;
}

#[tokio::test(start_paused = true)]
async fn color_that_did_not_run_stays_stopped_after_two_refusals() {
    let machine = Machine::fresh();
    machine.crash(Color::Green);
    for version in ["v2", "v3"] {
        let refused = Command::DeployWithFailingHook(version, Phase::Switched);
        let run = machine.run(refused, None).await;
        assert_eq!(exit_code_of(&run), Some(exit_code::REFUSED));
        assert_eq!(machine.server(Color::Green).running, None, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_journal_blocks_neither_failover_nor_rollback() {
    let crashed = Machine::restore(&green_active().await);
    crashed.crash(Color::Green);
    crashed.damage_journal();
    let monitored = crashed.run(Command::Monitor, None).await;
    monitored.assert_success("monitor");
    assert_eq!(crashed.flags().active(), Color::Blue);

    let machine = Machine::restore(&green_active().await);
    machine.damage_journal();
    let rolled_back = machine.run(Command::Rollback, None).await;
    rolled_back.assert_success("rollback");
    assert_eq!(machine.flags().active(), Color::Blue);
}

//! Kills deployers at every kill point, and then kills the next command at each of its own kill points. Every
//! leftover is recovered.
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

/// The number of kills.
#[derive(Debug, Default)]
struct Kills {
    /// Of the first command.
    points: usize,
    /// Of the first command and then of the next one.
    pairs: usize,
}

/// What a deployer does when it is killed, and where traffic is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// The first deployment: no color stands in yet.
    FirstDeployment,
    /// A deployment to green.
    DeploymentToGreen,
    /// A deployment to blue.
    DeploymentToBlue,
    /// A deployment whose hook fails before the switch.
    Refusal,
    /// A deployment whose hook fails after the switch.
    AutomaticRollback,
    /// A deployment after whose switch another release answers clients.
    WrongRouter,
    /// `deployer rollback`, from green to blue.
    RollbackByHand,
    /// `deployer switch green`.
    Switch,
    /// `deployer recover` after a deployer that was killed right after the switch.
    Recovery,
    /// The same with `--on-interrupt continue`.
    ResumedWatch,
    /// `deployer monitor` when the active color, green, has crashed.
    Failover,
}

impl Scene {
    fn command(self) -> Command {
        match self {
            Self::FirstDeployment | Self::DeploymentToGreen | Self::DeploymentToBlue => {
                Command::Deploy("v4")
            }
            Self::Refusal => Command::DeployWithFailingHook("v4", Phase::Switched),
            Self::AutomaticRollback => Command::DeployWithFailingHook("v4", Phase::Promoted),
            Self::WrongRouter => Command::DeployBehindWrongRouter("v4"),
            Self::RollbackByHand => Command::Rollback,
            Self::Switch => Command::Switch(Color::Green),
            Self::Recovery => Command::Recover,
            Self::ResumedWatch => Command::Resume,
            Self::Failover => Command::Monitor,
        }
    }

    /// The exit code of the command if it is not killed.
    fn code(self) -> u8 {
        match self {
            Self::Refusal => exit_code::REFUSED,
            Self::AutomaticRollback | Self::WrongRouter => exit_code::ROLLED_BACK,
            _ => exit_code::FINE,
        }
    }

    async fn begin(self) -> Snapshot {
        match self {
            Self::FirstDeployment => Machine::fresh().snapshot(),
            Self::DeploymentToGreen
            | Self::Refusal
            | Self::AutomaticRollback
            | Self::WrongRouter
            | Self::Switch => blue_active().await,
            Self::DeploymentToBlue | Self::RollbackByHand => green_active().await,
            Self::Recovery | Self::ResumedWatch => killed_after_the_switch().await,
            Self::Failover => {
                let machine = Machine::of(&green_active().await);
                machine.crash(Color::Green);
                machine.snapshot()
            }
        }
    }
}

/// Green has the traffic with v2; blue stands in with v1.
async fn green_active() -> Snapshot {
    let machine = Machine::fresh();
    let deployed = machine.run(Command::Deploy("v2"), None).await;
    deployed.succeeded("deploy v2");
    machine.snapshot()
}

/// Blue has the traffic with v3; green stands in with v2.
async fn blue_active() -> Snapshot {
    let machine = Machine::of(&green_active().await);
    let deployed = machine.run(Command::Deploy("v3"), None).await;
    deployed.succeeded("deploy v3");
    machine.snapshot()
}

/// The deployer of v4 was killed right after the switch to green.
async fn killed_after_the_switch() -> Snapshot {
    let begin = blue_active().await;
    let deploy = Command::Deploy("v4");
    let points = Machine::of(&begin).run(deploy, None).await.points;
    let switched = points
        .iter()
        .position(|point| point == "after journal switched");
    let machine = Machine::of(&begin);
    killed(&machine, deploy, switched.expect("a kill point"), &points).await
}

/// Kills the command of a scene at each of its kill points, and the next command at each of its own.
async fn kill_everywhere(scene: Scene, next: &[Command]) -> Kills {
    let (begin, first) = (scene.begin().await, scene.command());
    let whole = Machine::of(&begin);
    let run = whole.run(first, None).await;
    assert_eq!(code_of(&run), Some(scene.code()), "{first:?}");
    whole.assert_settled().await;
    let mut kills = Kills::default();
    for (number, point) in run.points.iter().enumerate() {
        let machine = Machine::of(&begin);
        let what = format!("{first:?}, killed at {point:?}");
        let left = killed(&machine, first, number, &run.points).await;
        kills.points += 1;
        for next in next {
            kills.pairs += kill_next(&left, *next, &what).await;
        }
    }
    kills
}

/// Runs `next` after a killed deployer: to its end, and killed at each of its kill points. Returns the number
/// of kill points.
async fn kill_next(left: &Snapshot, next: Command, what: &str) -> usize {
    let machine = Machine::of(left);
    let whole = machine.run(next, None).await;
    let what = format!("{what}, then {next:?}");
    recovered(&machine, &what).await;
    for (number, point) in whole.points.iter().enumerate() {
        let machine = Machine::of(left);
        killed(&machine, next, number, &whole.points).await;
        recovered(&machine, &format!("{what}, killed at {point:?}")).await;
    }
    whole.points.len()
}

/// Kills a command at the kill point with this number, and checks that it passed the same points as without the
/// kill. Returns the machine.
async fn killed(machine: &Machine, command: Command, number: usize, points: &[String]) -> Snapshot {
    let run = machine.run(command, Some(number)).await;
    assert!(
        matches!(run.ending, Ending::Killed),
        "{command:?} was not killed at {}",
        points[number]
    );
    assert_eq!(
        run.points,
        points[..=number],
        "{command:?} went another way"
    );
    machine.assert_true().await;
    machine.snapshot()
}

/// Recovers with `deployer recover`, and with the monitor if the active color is down. A failed assertion names
/// commands and kill points.
async fn recovered(machine: &Machine, what: &str) {
    let recovery = async {
        machine
            .run(Command::Recover, None)
            .await
            .succeeded("recover");
        let active = machine.flags().active();
        if machine.server(active).runs.is_none() {
            machine.assert_true().await;
            machine
                .run(Command::Monitor, None)
                .await
                .succeeded("monitor");
            assert_ne!(machine.flags().active(), active, "no failover");
        }
        machine.assert_settled().await;
    };
    if let Err(panic) = AssertUnwindSafe(recovery).catch_unwind().await {
        let text = panic
            .downcast_ref::<String>()
            .map_or("it panicked", String::as_str);
        panic!("{what}: {text}");
    }
}

fn code_of(run: &Run) -> Option<u8> {
    match &run.ending {
        Ending::CommandOutput(Ok(done)) => Some(done.code),
        _ => None,
    }
}

/// Asserts that every pair of kills of a scene is recovered, and that the number of kill points has not fallen.
async fn every_pair_is_recovered(scene: Scene, next: &[Command], points: usize, pairs: usize) {
    // Boxed: it holds the futures of all commands.
    let kills = Box::pin(kill_everywhere(scene, next)).await;
    assert!(kills.points >= points, "{kills:?}");
    assert!(kills.pairs >= pairs, "{kills:?}");
}

/// Kills the command, then `deployer recover`.
async fn recovered_when_recovery_is_killed(scene: Scene, points: usize, pairs: usize) {
    every_pair_is_recovered(scene, &[Command::Recover], points, pairs).await;
}

#[tokio::test(start_paused = true)]
async fn first_deployment_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::FirstDeployment, 26, 140).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_green_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::DeploymentToGreen, 26, 152).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_blue_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::DeploymentToBlue, 26, 152).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::Refusal, 22, 100).await;
}

#[tokio::test(start_paused = true)]
async fn automatic_rollback_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::AutomaticRollback, 30, 176).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_router_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::WrongRouter, 30, 176).await;
}

#[tokio::test(start_paused = true)]
async fn rollback_by_hand_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::RollbackByHand, 12, 88).await;
}

#[tokio::test(start_paused = true)]
async fn switch_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::Switch, 12, 76).await;
}

#[tokio::test(start_paused = true)]
async fn recovery_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::Recovery, 10, 46).await;
}

#[tokio::test(start_paused = true)]
async fn resumed_bake_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::ResumedWatch, 6, 22).await;
}

#[tokio::test(start_paused = true)]
async fn failover_is_recovered_from_every_pair_of_kills() {
    recovered_when_recovery_is_killed(Scene::Failover, 16, 120).await;
}

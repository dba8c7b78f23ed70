//! The command after a killed deployer is any other command that moves traffic, and is killed at each of its own
//! kill points.

use crate::{
    color::Color,
    commands::crash_safety::{Scenario, assert_every_pair_is_recovered, machine::Command},
};

const NEXT_COMMANDS: [Command; 6] = [
    Command::Resume,
    Command::Rollback,
    Command::Switch(Color::Blue),
    Command::Switch(Color::Green),
    Command::Deploy("after"),
    Command::Monitor,
];

#[tokio::test(start_paused = true)]
async fn first_deployment_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::FirstDeployment, &NEXT_COMMANDS, 26, 1704).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_green_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::DeploymentToGreen, &NEXT_COMMANDS, 26, 1816).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_blue_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::DeploymentToBlue, &NEXT_COMMANDS, 26, 1816).await;
}

#[tokio::test(start_paused = true)]
async fn approved_deployment_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::ApprovedDeployment, &NEXT_COMMANDS, 34, 2200).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::Refusal, &NEXT_COMMANDS, 22, 1356).await;
}

#[tokio::test(start_paused = true)]
async fn automatic_rollback_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::AutomaticRollback, &NEXT_COMMANDS, 30, 1968).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_router_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::WrongRouter, &NEXT_COMMANDS, 30, 1968).await;
}

#[tokio::test(start_paused = true)]
async fn manual_rollback_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::ManualRollback, &NEXT_COMMANDS, 12, 836).await;
}

#[tokio::test(start_paused = true)]
async fn switch_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::Switch, &NEXT_COMMANDS, 12, 890).await;
}

#[tokio::test(start_paused = true)]
async fn recovery_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::Recovery, &NEXT_COMMANDS, 10, 546).await;
}

#[tokio::test(start_paused = true)]
async fn resumed_bake_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::ResumedBake, &NEXT_COMMANDS, 6, 394).await;
}

#[tokio::test(start_paused = true)]
async fn failover_is_recovered_when_any_command_after_it_is_killed() {
    assert_every_pair_is_recovered(Scenario::Failover, &NEXT_COMMANDS, 16, 1146).await;
}

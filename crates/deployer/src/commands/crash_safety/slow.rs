//! The command after a killed deployer need not be `deployer recover`: every other command that moves traffic
//! is killed at each of its kill points too.

use crate::{
    color::Color,
    commands::crash_safety::{Scene, every_pair_is_recovered, machine::Command},
};

const NEXT: [Command; 6] = [
    Command::Resume,
    Command::Rollback,
    Command::Switch(Color::Blue),
    Command::Switch(Color::Green),
    Command::Deploy("after"),
    Command::Monitor,
];

#[tokio::test(start_paused = true)]
async fn first_deployment_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::FirstDeployment, &NEXT, 26, 1704).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_green_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::DeploymentToGreen, &NEXT, 26, 1816).await;
}

#[tokio::test(start_paused = true)]
async fn deployment_to_blue_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::DeploymentToBlue, &NEXT, 26, 1816).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::Refusal, &NEXT, 22, 1356).await;
}

#[tokio::test(start_paused = true)]
async fn automatic_rollback_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::AutomaticRollback, &NEXT, 30, 1968).await;
}

#[tokio::test(start_paused = true)]
async fn wrong_router_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::WrongRouter, &NEXT, 30, 1968).await;
}

#[tokio::test(start_paused = true)]
async fn rollback_by_hand_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::RollbackByHand, &NEXT, 12, 836).await;
}

#[tokio::test(start_paused = true)]
async fn switch_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::Switch, &NEXT, 12, 902).await;
}

#[tokio::test(start_paused = true)]
async fn recovery_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::Recovery, &NEXT, 10, 546).await;
}

#[tokio::test(start_paused = true)]
async fn resumed_bake_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::ResumedWatch, &NEXT, 6, 394).await;
}

#[tokio::test(start_paused = true)]
async fn failover_is_recovered_when_any_command_after_it_is_killed() {
    every_pair_is_recovered(Scene::Failover, &NEXT, 16, 1146).await;
}

//! A bad candidate and no way back: a person is needed, and nothing is made worse meanwhile.

use deployer::{deployment::phase::Phase, ports::Service};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, Ended, OLD},
    history::Call,
    script::Fault,
    server::{Server, Trouble},
};

/// Nothing was stopped, and the reason tells the trouble, the obstacle and what to do.
fn assert_halted(ended: &Ended, words: [&str; 2]) {
    for words in words {
        ended.assert(Phase::Halted, words);
    }
    ended.assert(
        Phase::Halted,
        "repair one color, then `deployer switch COLOR`",
    );
    for color in [OLD, CANDIDATE] {
        assert_eq!(ended.count(&Call::Stop(Service::Server(color))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_stays_when_both_colors_are_sick() {
    let ended = Deployment::of(Server::later(2, Trouble::FailsClients))
        .then(
            |call| *call == Call::PointAt(CANDIDATE),
            |state| state.blue.trouble = Trouble::Unhealthy,
        )
        .run()
        .await;
    assert_halted(
        &ended,
        [
            "requests failed",
            "the rollback failed: blue is sick too: answered 503",
        ],
    );
    assert_eq!(ended.active, CANDIDATE);
    assert_eq!(ended.count(&Call::PointAt(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_rollback_halts() {
    for fault in [Fault::Before, Fault::After] {
        let ended = Deployment::of(Server::later(2, Trouble::Exited))
            .failing(ALWAYS, |call| *call == Call::PointAt(OLD), fault)
            .run()
            .await;
        assert_halted(
            &ended,
            [
                "it stopped: exit code 3",
                "the rollback failed: PointAt(Blue) failed",
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silent_router_after_failed_switch_halts() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| matches!(call, Call::PointAt(_)),
            Fault::After,
        )
        .failing(1..usize::MAX, |call| *call == Call::Active, Fault::Before)
        .run()
        .await;
    assert_halted(&ended, ["PointAt(Green) failed", "PointAt(Blue) failed"]);
}

#[tokio::test(start_paused = true)]
async fn fit_flag_that_stays_on_the_candidate_halts() {
    // The flag is set at the end of the bake although the call fails. Then the rollback cannot remove it.
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::SetFit(CANDIDATE, true),
            Fault::After,
        )
        .failing(
            1..usize::MAX,
            |call| *call == Call::SetFit(CANDIDATE, false),
            Fault::Before,
        )
        .run()
        .await;
    assert_halted(
        &ended,
        [
            "SetFit(Green, true) failed",
            "traffic is back on blue, but green may still stand in for it",
        ],
    );
    assert_eq!(ended.active, OLD);
}

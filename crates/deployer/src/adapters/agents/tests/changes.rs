//! Changes of the flags.

use std::time::{Duration, Instant};

use crate::{
    adapters::{
        agents::{
            RoutersProbe,
            tests::fakes::{Cluster, CommitAnswer},
        },
        http::HttpProbe,
        user_agent::UserAgent,
    },
    cluster::RouterFlags,
    color::Color,
    ports::{Flags, OnSilentRouter, Probe as _, Repeat, Router, Target, UnconfirmedRouter},
};

const GREEN: RouterFlags = RouterFlags {
    active: Color::Green,
    fit_blue: false,
    fit_green: false,
    shadow: false,
};

async fn switch(cluster: &Cluster, silent: OnSilentRouter) -> Result<Vec<String>, String> {
    let switched = cluster.routers.switch_to(Color::Green, silent).await;
    let switched = switched.map_err(|error| error.to_string())?;
    assert_eq!(switched.displaced, Color::Blue);
    let unconfirmed = switched.unconfirmed.into_iter();
    Ok(unconfirmed.map(|router| router.name).collect())
}

#[tokio::test]
async fn switch_moves_every_router_and_decides_what_it_prepared() {
    let cluster = Cluster::of(3).await;
    let unconfirmed = switch(&cluster, OnSilentRouter::Refuse).await.unwrap();
    assert_eq!(unconfirmed, [""; 0]);
    assert_eq!(cluster.actives(), [Color::Green; 3]);
    let truth = cluster.store.truth();
    assert_eq!((truth.flags, truth.prepared), (GREEN, None));
    let active = Router::active(&cluster.routers).await;
    assert_eq!(active, Ok(Color::Green));
}

#[tokio::test]
async fn switch_is_refused_and_aborted_if_a_router_is_silent() {
    let cluster = Cluster::of(3).await;
    cluster.agents[1].lock().silent = true;
    let refusal = switch(&cluster, OnSilentRouter::Refuse).await.unwrap_err();
    assert!(refusal.contains("router r2 did not promise"), "{refusal}");
    assert_eq!(cluster.actives(), [Color::Blue; 3]);
    let truth = cluster.store.truth();
    assert_eq!(truth.flags, RouterFlags::default());
    assert_eq!(truth.prepared, None);
}

#[tokio::test]
async fn switch_is_refused_if_a_router_does_not_reach_the_candidate() {
    let cluster = Cluster::of(2).await;
    cluster.agents[0].lock().reaches_green = false;
    let refusal = switch(&cluster, OnSilentRouter::Refuse).await.unwrap_err();
    let expected = "router r1 did not promise: its nginx does not reach green";
    assert!(refusal.contains(expected), "{refusal}");
    assert_eq!(cluster.store.truth().flags.active, Color::Blue);
}

#[tokio::test]
async fn rollback_moves_the_other_routers_and_names_the_silent_one() {
    let cluster = Cluster::of(3).await;
    cluster.agents[2].lock().silent = true;
    let moved = cluster
        .routers
        .switch_to(Color::Green, OnSilentRouter::MoveOthers);
    let moved = moved.await.unwrap();
    let silent = UnconfirmedRouter {
        name: "r3".to_owned(),
        fenced: false,
    };
    assert_eq!(moved.unconfirmed, [silent]);
    let expected = [Color::Green, Color::Green, Color::Blue];
    assert_eq!(cluster.actives(), expected);
    assert_eq!(cluster.store.truth().flags, GREEN);
}

#[tokio::test]
async fn truth_alone_says_what_is_active_if_no_router_confirms_it() {
    let cluster = Cluster::of(2).await;
    for agent in &cluster.agents {
        agent.lock().silent = true;
    }
    let active = Router::active(&cluster.routers).await;
    assert_eq!(active, Ok(Color::Blue));
    cluster.agents[1].lock().silent = false;
    cluster.agents[1].lock().nginx_obeys = false;
    cluster.store.leave_prepared(GREEN);
    cluster
        .routers
        .switch_to(Color::Green, OnSilentRouter::MoveOthers)
        .await
        .unwrap();
    let active = Router::active(&cluster.routers).await;
    assert_eq!(active, Ok(Color::Green), "a rollback needs it");
    // Deployments ask this first.
    let error = cluster.routers.check_flags().await.unwrap_err();
    assert!(error.to_string().contains("router r2: "), "{error}");
}

#[tokio::test]
async fn rollback_decides_over_what_a_dead_deployer_prepared() {
    let cluster = Cluster::of(2).await;
    cluster.store.leave_prepared(RouterFlags {
        shadow: true,
        ..GREEN
    });
    let moved = switch(&cluster, OnSilentRouter::MoveOthers).await.unwrap();
    assert_eq!(moved, [""; 0]);
    let truth = cluster.store.truth();
    assert_eq!((truth.flags, truth.prepared), (GREEN, None));
}

#[tokio::test]
async fn prepared_change_blocks_a_switch_until_it_is_aborted() {
    let cluster = Cluster::of(2).await;
    cluster.store.leave_prepared(GREEN);
    let refusal = switch(&cluster, OnSilentRouter::Refuse).await.unwrap_err();
    assert!(refusal.contains("by a dead deployer"), "{refusal}");
    let aborted = cluster.routers.abort_prepared().await.unwrap();
    assert_eq!(aborted.as_deref(), Some("deploy v2 by a dead deployer"));
    assert_eq!(cluster.store.truth().flags, RouterFlags::default());
    assert_eq!(cluster.routers.abort_prepared().await, Ok(None));
    switch(&cluster, OnSilentRouter::Refuse).await.unwrap();
    assert_eq!(cluster.actives(), [Color::Green; 2]);
}

#[tokio::test]
async fn router_is_confirmed_only_after_its_nginx_obeys() {
    let cluster = Cluster::of(2).await;
    cluster.agents[1].lock().nginx_obeys = false;
    let began = Instant::now();
    let unconfirmed = switch(&cluster, OnSilentRouter::Refuse).await.unwrap();
    assert_eq!(unconfirmed, ["r2"]);
    // 1.1 T, after which the router has closed itself.
    assert!(began.elapsed() >= Duration::from_millis(330));
    assert_eq!(cluster.actives(), [Color::Green, Color::Blue]);
    let statuses = cluster.routers.routers().await.unwrap();
    assert_eq!(statuses[0].problem, None);
    let problem = statuses[1].problem.as_deref().unwrap();
    assert_eq!(
        problem,
        "it obeys generation 1; the store holds generation 2"
    );
}

#[tokio::test]
async fn lost_answer_to_the_commit_ends_as_the_store_says() {
    for (answer, active) in [
        (CommitAnswer::Lost, Color::Green),
        (CommitAnswer::WriteLost, Color::Blue),
    ] {
        let cluster = Cluster::of(2).await;
        *cluster.store.commit.lock().unwrap() = answer;
        let switched = switch(&cluster, OnSilentRouter::Refuse).await;
        assert_eq!(switched.is_ok(), active == Color::Green, "{switched:?}");
        let truth = cluster.store.truth();
        assert_eq!((truth.flags.active, truth.prepared), (active, None));
        assert_eq!(cluster.actives(), [active; 2]);
    }
}

#[tokio::test]
async fn change_ends_although_its_caller_stops_waiting() {
    let cluster = Cluster::of(2).await;
    cluster.agents[1].lock().silent = true;
    let switched = switch(&cluster, OnSilentRouter::Refuse);
    let stopped = tokio::time::timeout(Duration::from_millis(100), switched).await;
    assert!(stopped.is_err());
    // Returns after the abort.
    assert_eq!(Flags::active(&cluster.routers).await, Ok(Color::Blue));
    assert_eq!(cluster.store.truth().prepared, None);
}

#[tokio::test]
async fn idle_color_loses_its_fit_flag_only_with_every_router() {
    let cluster = Cluster::of(2).await;
    let routers = &cluster.routers;
    for color in Color::BOTH {
        routers.set_fit(color, true).await.unwrap();
    }
    cluster.agents[0].lock().silent = true;
    let refused = routers.set_fit(Color::Green, false).await.unwrap_err();
    assert!(refused.to_string().contains("r1"), "{refused}");
    assert_eq!(routers.is_fit(Color::Green).await, Ok(true));
    // A rollback begins with this.
    routers.set_fit(Color::Blue, false).await.unwrap();
    assert_eq!(routers.is_fit(Color::Blue).await, Ok(false));
}

#[tokio::test]
async fn router_that_differs_is_named() {
    let cluster = Cluster::of(2).await;
    let routers = &cluster.routers;
    assert_eq!(routers.check_flags().await, Ok(()));
    assert_eq!(routers.in_flight().await, Ok(4));
    assert_eq!(routers.repeat().await, Ok(Repeat::Always));
    cluster.agents[1].lock().repeat = "unless_sent\n";
    cluster.agents[1].lock().report.open = false;
    let different = routers.repeat().await.unwrap_err().to_string();
    assert!(
        different.ends_with("router r1 repeats always, router r2 unless_sent"),
        "{different}"
    );
    let closed = routers.check_flags().await.unwrap_err().to_string();
    assert!(closed.starts_with("router r2: it is closed"), "{closed}");
}

#[tokio::test]
async fn color_is_healthy_through_the_routers_only_if_each_reaches_it() {
    let cluster = Cluster::of(2).await;
    let user_agent = std::sync::Arc::new(UserAgent::of_installation(cluster.state()));
    let probe = HttpProbe::new(&cluster.settings, user_agent).unwrap();
    let probe = RoutersProbe::new(probe, cluster.routers.clone(), "/health".to_owned());
    let through = Target::ThroughRouter(Color::Green);
    let health = probe.health(through).await.unwrap();
    assert_eq!(health.model_version.as_deref(), Some("v2"));
    cluster.agents[1].lock().reaches_green = false;
    let error = probe.health(through).await.unwrap_err().to_string();
    assert!(error.starts_with("router r2: "), "{error}");
}

//! How requests of clients end is the evidence: a release is rolled back for what it does to them, and not for what
//! clients or the previous release do, too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use end_to_end::{fault::POISON, get};
use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_that_refuses_clients_or_answers_nothing() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    for (version, reason) in [
        (
            "refuses-clients",
            "it refuses requests with 422: POST /predict, ",
        ),
        (
            "locks-clients-out",
            "it refuses requests with 401: POST /predict, ",
        ),
        (
            "answers-nothing",
            "its answers have no label: POST /predict, ",
        ),
    ] {
        ensure_rolled_back(&stack, &traffic, version, &[], reason).await?;
    }
    let log = traffic.stop().await;
    let failures = log.failures();
    let expected = ["status 401", "status 422", "the response is not JSON"];
    let is_expected = |failure: &&str| expected.iter().any(|it| failure.starts_with(it));
    ensure!(failures.keys().all(is_expected), "{failures:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_on_which_clients_give_up() -> Result {
    // Longer than the previous release takes on a busy machine, and shorter than this one does.
    const TIMEOUT: Duration = Duration::from_millis(500);

    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_impatient_traffic(CLIENTS, PAUSE, TIMEOUT)?;
    let reason = "clients give up before an answer: POST /predict, ";
    ensure_rolled_back(&stack, &traffic, "slow-for-clients", &[], reason).await?;
    traffic.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_that_cuts_answers_or_fails_some() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    let (checks, _checker) = start_uptime_checker(&stack);
    for (version, kind) in [
        ("cuts-by-length", "cut"),
        ("cuts-chunks", "cut"),
        ("fails-for-some", "failed"),
    ] {
        ensure_rolled_back(&stack, &traffic, version, &[], "requests failed").await?;
        let report = stack.expect_exit(0, &["report", "--json"]).await?;
        let report: Value = serde_json::from_str(&report.stdout)?;
        let seconds = report["traffic"].as_array().into_iter().flatten();
        let ended = seconds.filter_map(|second| second["endings"][kind].as_u64());
        ensure!(ended.sum::<u64>() > 0, "{version}: none {kind}");
    }
    // As many answers to the checker could hide failures of one prediction in ten.
    let checks = checks.load(Ordering::Relaxed);
    ensure!(checks > 1_000, "only {checks} uptime checks were answered");
    traffic.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_that_hangs_for_some() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    // Each hanging request keeps a client for as long as the router waits.
    let traffic = stack.start_traffic(10 * CLIENTS, 10 * PAUSE)?;
    ensure_rolled_back(&stack, &traffic, "hangs-for-some", &[], "requests hang: ").await?;
    // The clients' hanging requests end with the server.
    traffic.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_on_both_colors_do_not_block_a_release() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let skip_gates = ["gates.run=[]"];
    deploy(&stack, 0, "fails-on-poison", &skip_gates).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    let poisoned = start_bodies(&stack, 1, &[&format!(r#"{{"text":"{POISON}"}}"#)]);
    poisoned.wait_for_requests(100).await?;
    deploy(&stack, 0, "still-fails-on-poison", &skip_gates).await?;
    let failed = poisoned.stop().await;
    ensure!(
        failed.failures().keys().eq([&"status 500"]),
        "{:?}",
        failed.failures()
    );
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_that_both_releases_refuse_do_not_block_a_release() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    traffic.wait_for_requests(600).await?;
    let bursts = async {
        stack.wait_for_phase("switched").await?;
        let bad = start_bodies(&stack, CLIENTS / 2, &["{}"]);
        bad.wait_for_requests(1_000).await?;
        Ok(bad)
    };
    let deployed = deploy(&stack, 0, "v2", &["gates.run=[]"]);
    let (report, bad): (Result<Value>, Result<Traffic>) = tokio::join!(deployed, bursts);
    let refused = bad?.stop().await;
    ensure!(
        refused.by_version().is_empty(),
        "{:?}",
        refused.by_version()
    );
    // The previous release was asked, and refuses them too.
    let report = report?.to_string();
    ensure!(
        report.contains("the previous release got copies of "),
        "{report}"
    );
    traffic.stop().await.ensure_none_failed()
}

/// Long enough to find what hangs or what only some requests meet.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_secs(20));

/// Asks whether the service is up, a few hundred times per second. Returns the number of answers so far. Ends when the
/// set is dropped.
fn start_uptime_checker(stack: &Stack) -> (Arc<AtomicUsize>, JoinSet<()>) {
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let address = stack.router_address().to_string();
    let mut checker = JoinSet::new();
    checker.spawn(async move {
        loop {
            let answer = get(&address, "/readyz").await;
            counted.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    (answers, checker)
}

/// Posts these bodies, a few dozen per second for each client.
fn start_bodies(stack: &Stack, clients: usize, bodies: &[&str]) -> Traffic {
    let bodies = bodies.iter().map(|body| (*body).to_owned()).collect();
    Traffic::start(stack.router_address(), clients, PAUSE, bodies)
}

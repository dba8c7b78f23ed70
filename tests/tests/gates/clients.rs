//! What happens to clients during the bake decides. A release that harms them is rolled back soon. What clients or
//! the router do themselves, and what both releases do, is not held against a release.

use std::fs;

use anyhow::ensure;
use end_to_end::{
    Clients, TrafficLog,
    fault::{LARGE_HEADER, LONG_BODY, STATUS_HEADER},
    golden_bodies,
};
use hyper::Method;

use super::*;

/// Long enough that a rollback at its end is too late.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_secs(25));
/// A release must be rolled back within this time of the first requests that it harms.
const SOON: usize = 15;

async fn start_stack() -> Result<Stack> {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    Ok(stack)
}

/// Starts these many clients. Each sends about ten requests per second.
fn start_clients(stack: &Stack, count: usize, clients: Clients) -> Traffic {
    Traffic::start_clients(stack.router_address(), count, LONG_PAUSE, clients)
}

/// Fails unless requests failed, at most `limit`, and all with this error.
fn ensure_failures(log: &TrafficLog, limit: usize, error: &str) -> Result {
    let failures = log.failures();
    ensure!(
        failures.keys().all(|it| it.starts_with(error)),
        "{failures:?}"
    );
    let count: usize = failures.values().sum();
    ensure!((1..=limit).contains(&count), "{failures:?}");
    Ok(())
}

/// Deploys a good release under traffic, to which `start` adds other clients after the switch. Fails unless the release
/// is promoted. Returns the record of the other clients.
async fn ensure_promoted(
    stack: &Stack,
    start: impl FnOnce(&Stack) -> Vec<Traffic>,
) -> Result<Vec<TrafficLog>> {
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(600).await?;
    let others = async {
        stack.wait_for_phase("switched").await?;
        anyhow::Ok(start(stack))
    };
    let deployed = deploy(stack, 0, "v2", &["gates.run=[]"]);
    let (report, others) = tokio::join!(deployed, others);
    report?;
    let mut logs = Vec::new();
    for traffic in others? {
        logs.push(traffic.stop().await);
    }
    traffic.stop().await.ensure_none_failed()?;
    Ok(logs)
}

#[tokio::test(flavor = "multi_thread")]
async fn release_on_which_long_texts_time_out_is_rolled_back() -> Result {
    const CLIENTS_WITH_LONG_TEXTS: usize = 16;

    let stack = start_stack().await?;
    let others = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    let text = "not so fine, ".repeat(usize::try_from(LONG_BODY)? / 10);
    let long = Clients {
        timeout: Duration::from_secs(1),
        ..Clients::predicting(vec![serde_json::json!({ "text": text }).to_string()])
    };
    let traffic = start_clients(&stack, CLIENTS_WITH_LONG_TEXTS, long);
    let reason = "clients give up before an answer: POST /predict, ";
    ensure_rolled_back(&stack, &traffic, "slow-for-long-texts", &[], reason).await?;
    let error = "no response within the client's timeout";
    ensure_failures(&traffic.stop().await, SOON * CLIENTS_WITH_LONG_TEXTS, error)?;
    others.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn release_that_hangs_for_one_request_in_ten_is_rolled_back() -> Result {
    let stack = start_stack().await?;
    // Each request that hangs keeps a client, so many clients are needed.
    let bodies = golden_bodies()?;
    let pause = Duration::from_secs(2);
    let traffic = Traffic::start(stack.router_address(), 200, pause, bodies);
    ensure_rolled_back(&stack, &traffic, "hangs-for-some", &[], "requests hang: ").await?;
    let log = traffic.stop().await;
    // A request that hangs ends when the release is stopped: the previous release answers it.
    let waited = |limit: u64| {
        let limit = Duration::from_secs(limit);
        log.requests.iter().filter(|it| it.duration > limit).count()
    };
    ensure!(waited(2) > 0, "no request hung");
    ensure!(waited(60) == 0, "{} requests hung for long", waited(60));
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn release_that_cuts_answers_is_rolled_back() -> Result {
    let stack = start_stack().await?;
    for version in ["cuts-by-length", "cuts-chunks"] {
        let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
        ensure_rolled_back(&stack, &traffic, version, &[], "requests failed").await?;
        let error = "the connection broke during the response";
        // One answer in five is cut, of about 100 per second.
        ensure_failures(&traffic.stop().await, SOON * 20, error)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_with_constant_answers_is_rolled_back() -> Result {
    let stack = start_stack().await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    let reason = "its answers have no label: POST /predict, ";
    ensure_rolled_back(&stack, &traffic, "answers-constant", &[], reason).await?;
    // Every second answer is constant, of about 100 per second.
    ensure_failures(
        &traffic.stop().await,
        SOON * 50,
        "the response has no model_version",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn release_that_answers_beside_another_one_is_rolled_back() -> Result {
    let stack = start_stack().await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    let reason = "several releases answer as the candidate";
    ensure_rolled_back(&stack, &traffic, "mixes-releases", &[], reason).await?;
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn uptime_checks_do_not_hide_failing_predictions() -> Result {
    let stack = start_stack().await?;
    let up = Clients {
        header: Some((STATUS_HEADER, "200")),
        ..Clients::asking(Method::GET, "/")
    };
    let pause = Duration::from_millis(5);
    let checker = Traffic::start_clients(stack.router_address(), FEW_CLIENTS, pause, up);
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    let reason = "POST /predict, ";
    ensure_rolled_back(&stack, &traffic, "times-out-for-some", &[], reason).await?;
    let checks = checker.stop().await;
    checks.ensure_answered_only_by("status 200 OK")?;
    // With the checks, at most 2 % of all requests failed. That is less than `bake.max_error_rate`.
    let log = traffic.stop().await;
    let (checks, predictions) = (checks.requests.len(), log.requests.len());
    ensure!(checks > 4 * predictions, "only {checks} checks");
    // One prediction in ten fails, of about 100 per second.
    ensure_failures(&log, SOON * 10, "status 504")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_on_both_colors_block_no_release() -> Result {
    let stack = start_stack().await?;
    let failing = Clients {
        header: Some((STATUS_HEADER, "500")),
        ..Clients::predicting(vec!["{}".to_owned()])
    };
    // One such client for sixteen others, before and after the switch: 6 % of requests fail.
    let poisoned = start_clients(&stack, 1, failing);
    let others = stack.start_traffic(CLIENTS - FEW_CLIENTS, LONG_PAUSE)?;
    ensure_promoted(&stack, |_| Vec::new()).await?;
    let poisoned = poisoned.stop().await;
    ensure!(poisoned.requests.len() > 200);
    // nginx writes 502 if it passes the active color over, so that no server is left after the standby.
    ensure_failures(&poisoned, poisoned.requests.len(), "status 50")?;
    others.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_of_bad_requests_from_one_client_blocks_no_release() -> Result {
    let stack = start_stack().await?;
    let logs = ensure_promoted(&stack, |stack| {
        let bad = Clients::predicting(vec!["{}".to_owned()]);
        let pause = Duration::from_millis(5);
        vec![Traffic::start_clients(
            stack.router_address(),
            1,
            pause,
            bad,
        )]
    })
    .await?;
    let bad = &logs[0];
    ensure!(bad.requests.len() > 1_000, "{}", bad.requests.len());
    ensure_failures(bad, bad.requests.len(), "status 400")
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_router_itself_block_no_release() -> Result {
    let stack = start_stack().await?;
    // With a file in the directory's place, the router can store no body that exceeds its buffer.
    let directory = stack.path("run/bodies");
    fs::remove_dir(&directory)?;
    fs::write(&directory, "")?;
    let logs = ensure_promoted(&stack, |stack| {
        let text = "not so fine, ".repeat(10_000);
        let body = serde_json::json!({ "text": text }).to_string();
        vec![start_clients(stack, 2, Clients::predicting(vec![body]))]
    })
    .await?;
    ensure_failures(&logs[0], logs[0].requests.len(), "status 503")
}

#[tokio::test(flavor = "multi_thread")]
async fn checkers_scanners_and_clients_that_leave_block_no_release() -> Result {
    let stack = start_stack().await?;
    let logs = ensure_promoted(&stack, |stack| {
        let leaving = Clients {
            header: Some((LARGE_HEADER, "1")),
            leave_early: true,
            ..Clients::predicting(vec![r#"{"text":"not so fine"}"#.to_owned()])
        };
        [
            Clients::asking(Method::HEAD, "/predict"),
            Clients::asking(Method::HEAD, "/"),
            Clients::asking(Method::GET, "/.env"),
            leaving,
        ]
        .map(|clients| start_clients(stack, 2, clients))
        .into()
    })
    .await?;
    ensure!(logs.iter().all(|log| log.requests.len() > 100));
    logs[3].ensure_answered_only_by("left after status 200 OK")
}

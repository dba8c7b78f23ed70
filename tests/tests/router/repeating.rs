//! How often a request reaches a color, and which color.

use std::{collections::BTreeSet, fs, net::SocketAddr, time::Duration};

use anyhow::ensure;
use deployer::ports::Repeat;
use end_to_end::{BakeDuration, Clients, Stack, Traffic, fault::POISON_HEADER, post};
use hyper::Method;

use super::{Result, Toys, choose, ensure_own_error, toy_server::ToyServer};

/// Clients that keep this many connections to each server open.
const CLIENTS: usize = 16;

async fn start_traffic(router: SocketAddr) -> Result<Traffic> {
    let clients = Clients::asking(Method::GET, "/fine");
    let traffic = Traffic::start_clients(router, CLIENTS, Duration::ZERO, clients);
    traffic.wait_for_requests(20 * CLIENTS).await?;
    Ok(traffic)
}

/// Sends poison while clients send other requests. Returns how often each color received the poison.
async fn send_poison_under_load(toys: &Toys) -> Result<(usize, usize)> {
    let count = |server: &ToyServer| server.received("/poison").len();
    let before = (count(&toys.blue), count(&toys.green));
    let traffic = start_traffic(toys.stack.router_address()).await?;
    ensure_own_error(&toys.ask("POST", "/poison", "").await?, 502)?;
    // Nothing repeats it later.
    traffic
        .wait_for_requests(traffic.count() + 20 * CLIENTS)
        .await?;
    traffic.stop().await.ensure_none_failed()?;
    Ok((count(&toys.blue) - before.0, count(&toys.green) - before.1))
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_request_is_attempted_at_most_twice_under_load() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    // Without a standby no other color is asked.
    ensure!(send_poison_under_load(&toys).await? == (2, 0));
    toys.set_flag("fit-green")?;
    ensure!(send_poison_under_load(&toys).await? == (1, 1));
    // The pages for errors of the router work while copies are on. A copy is one more request, to the idle color.
    toys.set_flag("shadow")?;
    ensure!(send_poison_under_load(&toys).await? == (1, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_request_reaches_one_color_once_unless_sent() -> Result {
    let toys = Toys::start(Repeat::UnlessSent).await?;
    ensure!(toys.ports.router.repeat().await? == Repeat::UnlessSent);
    toys.set_flag("fit-green")?;
    ensure!(send_poison_under_load(&toys).await? == (1, 0));
    // Neither an error nor a method makes it otherwise.
    for method in ["GET", "POST"] {
        let answer = toys.ask(method, "/500", "").await?;
        ensure!(answer.starts_with("HTTP/1.1 500 STATUS\r\n"), "{answer}");
        ensure_own_error(&toys.ask(method, "/poison", "").await?, 502)?;
    }
    ensure!(toys.blue.received("/500").len() == 2);
    ensure!(toys.green.received("/500").is_empty());
    ensure!(toys.green.received("/poison").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unsent_request_is_answered_by_the_standby() -> Result {
    for repeat in Repeat::ALL {
        let toys = Toys::start(repeat).await?;
        toys.blue.stop();
        ensure_own_error(&toys.ask("POST", "/fine", "").await?, 502)?;
        toys.set_flag("fit-green")?;
        let answer = toys.ask("POST", "/fine", "").await?;
        ensure!(answer.starts_with("HTTP/1.1 200 STATUS\r\n"), "{answer}");
        ensure!(toys.green.received("/fine").len() == 1);
    }
    Ok(())
}

/// Kills servers by poison while clients send other requests. Returns the colors that died.
async fn kill_by_poison(repeat: Repeat) -> Result<BTreeSet<&'static str>> {
    let stack = Stack::with_processes("faulty-server", BakeDuration(Duration::from_secs(1)))?;
    choose(repeat, &stack)?;
    stack.expect_exit(0, &["up"]).await?;
    fs::write(stack.path("run/flags/fit-green"), "")?;
    let pids = ["blue", "green"].map(|color| (color, stack.service_pid(color)));
    let traffic = stack.start_traffic(CLIENTS, Duration::ZERO)?;
    traffic.wait_for_requests(5 * CLIENTS).await?;
    let router = stack.router_address().to_string();
    let poison = format!("{POISON_HEADER}: yes");
    ensure!(post(&router, "/predict", &poison, r#"{"text":"good"}"#).await? == 502);
    // These are the requests of clients who come after it.
    let later = traffic.count() + CLIENTS;
    traffic.wait_for_requests(later + 20 * CLIENTS).await?;
    let log = traffic.stop().await;
    let mut dead = BTreeSet::new();
    for (color, pid) in pids {
        if !fs::exists(format!("/proc/{}/exe", pid?))? {
            dead.insert(color);
        }
    }
    if dead.len() < 2 {
        let failed = log
            .requests
            .iter()
            .skip(later)
            .filter(|it| it.outcome.is_err());
        ensure!(failed.count() == 0, "{:?}", log.failures());
    }
    Ok(dead)
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_request_kills_one_color_unless_sent() -> Result {
    let dead = kill_by_poison(Repeat::UnlessSent).await?;
    ensure!(dead == BTreeSet::from(["blue"]), "{dead:?}");
    // What the other choice costs: the standby repeats the request, too.
    let dead = kill_by_poison(Repeat::Always).await?;
    ensure!(dead == BTreeSet::from(["blue", "green"]), "{dead:?}");
    Ok(())
}

//! Something fails at a random moment of a switch.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    RELEASES,
    cluster::{Cluster, Result},
};

/// What fails. The number is a router's.
#[derive(Debug, Clone, Copy)]
enum Fault {
    DeployerKilled,
    AgentFrozen(usize),
    AgentKilled(usize),
    /// From store and deployer.
    CutOff(usize),
    NginxKilled(usize),
    StoreKilled,
    StoreFrozen,
}

impl Fault {
    fn numbered(number: usize) -> Self {
        let router = fastrand::usize(1..=3);
        match number % 7 {
            0 => Self::DeployerKilled,
            1 => Self::AgentFrozen(router),
            2 => Self::AgentKilled(router),
            3 => Self::CutOff(router),
            4 => Self::NginxKilled(router),
            5 => Self::StoreKilled,
            _ => Self::StoreFrozen,
        }
    }

    async fn begin(self, cluster: &mut Cluster) -> Result {
        match self {
            Self::DeployerKilled => Ok(()),
            Self::AgentFrozen(router) => cluster.signal_agent(router, "STOP"),
            Self::AgentKilled(router) => cluster.kill_agent(router).await,
            Self::CutOff(router) => cluster.set_plugged(router, false),
            Self::NginxKilled(router) => end_to_end::send_signal(&cluster.nginx(router)?, "KILL"),
            Self::StoreKilled => cluster.kill_store().await,
            Self::StoreFrozen => cluster.signal_store("STOP"),
        }
    }

    async fn end(self, cluster: &mut Cluster) -> Result {
        match self {
            // An agent starts its nginx again.
            Self::DeployerKilled | Self::NginxKilled(_) => Ok(()),
            Self::AgentFrozen(router) => cluster.signal_agent(router, "CONT"),
            Self::AgentKilled(router) => cluster.start_agent(router),
            Self::CutOff(router) => cluster.set_plugged(router, true),
            Self::StoreKilled => cluster.start_store().await,
            Self::StoreFrozen => cluster.signal_store("CONT"),
        }
    }
}

/// Injects this many faults, each at a random moment of a switch. After each command that says how the switch ended, every
/// open router must serve what the command said. After the fault, all routers must serve the truth.
pub(crate) async fn inject(faults: usize) -> Result {
    let Some(mut cluster) = Cluster::start().await? else {
        return Ok(());
    };
    let mut compared = 0;
    let mut codes = BTreeMap::<String, usize>::new();
    let mut duration = Duration::ZERO;
    for (color, _) in RELEASES {
        let began = Instant::now();
        duration = (cluster.expect_exit(0, &["switch", color]).await?.returned) - began;
    }
    for number in 0..faults {
        let fault = Fault::numbered(number);
        let active = cluster.truth().await?.flags.active.name();
        let (to, new) = *RELEASES
            .iter()
            .find(|(color, _)| *color != active)
            .context("there are two colors")?;
        let (_, old) = *RELEASES
            .iter()
            .find(|(color, _)| *color == active)
            .context("there are two colors")?;
        let delay = duration.mul_f64(fastrand::f64());
        let what = format!("{fault:?} {delay:?} after `switch {to}` began");
        let code = switch_with(&mut cluster, fault, delay, to)
            .await
            .with_context(|| what.clone())?;
        let kind = format!("{fault:?}");
        let kind = kind.split('(').next().unwrap_or_default();
        *codes.entry(format!("{kind} {code}")).or_default() += 1;
        let promised = match code {
            0 => Some(new),
            10 => Some(old),
            // The deployer was killed, or says that it does not know.
            _ => None,
        };
        if let Some(version) = promised {
            let open = count_open(&cluster, version).await;
            let open = open.with_context(|| format!("{what}: exit code {code}"))?;
            compared += usize::from(open > 0);
        }
        fault
            .end(&mut cluster)
            .await
            .with_context(|| what.clone())?;
        recover(&cluster, &what).await?;
    }
    eprintln!("faults and exit codes: {codes:?}");
    ensure!(
        compared * 2 > faults,
        "too few commands said how they ended: {codes:?}"
    );
    Ok(())
}

/// Returns how many routers are open. Fails if one of them serves another release than `version`.
async fn count_open(cluster: &Cluster, version: &str) -> Result<usize> {
    let mut open = 0;
    for router in 1..=3 {
        if let Some((200, served)) = cluster.answer_within(router).await? {
            ensure!(
                served == version,
                "r{router} serves {served}, not {version}"
            );
            open += 1;
        }
    }
    Ok(open)
}

/// Returns the deployer's exit code; -1 if it was killed.
async fn switch_with(
    cluster: &mut Cluster,
    fault: Fault,
    delay: Duration,
    to: &str,
) -> Result<i32> {
    let mut deployer = cluster.start_deployer(&["switch", to])?;
    tokio::time::sleep(delay).await;
    if matches!(fault, Fault::DeployerKilled) {
        deployer.kill().await?;
    }
    fault.begin(cluster).await?;
    let ended = tokio::time::timeout(Duration::from_mins(1), deployer.wait());
    let status = ended.await.context("the deployer does not end")??;
    Ok(status.code().unwrap_or(-1))
}

/// Waits until every router serves the truth, and nothing is prepared.
async fn recover(cluster: &Cluster, what: &str) -> Result {
    cluster.deployer(&["recover"]).await?;
    let truth = cluster.truth().await?;
    ensure!(truth.prepared.is_none(), "{what}: left {truth:?}");
    let (_, version) = *RELEASES
        .iter()
        .find(|(color, _)| *color == truth.flags.active.name())
        .context("there are two colors")?;
    for router in 1..=3 {
        let waited = cluster.wait_for_answer(router, 200, version).await;
        waited.with_context(|| what.to_owned())?;
    }
    Ok(())
}

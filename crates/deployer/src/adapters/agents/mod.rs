//! Several routers that switch as one: their flags are in a store, and each of them has an agent.

mod agent_client;
mod driver;
mod merged_log;
mod mirror;
mod probe;
mod router;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::{agent_client::AgentClient, driver::Driver};
pub(super) use self::{
    merged_log::{LogKind, MergedLog},
    mirror::trim as trim_mirrors,
    probe::RoutersProbe,
};
use crate::{
    adapters::connect_store,
    cluster::{
        Truth,
        change::{ChangeLimits, Decide, DecideOutcome, FencedChange, FlagEdit, Outcome},
        message::RouterReport,
    },
    config::Settings,
    ports::{PortError, RouterEntry, RouterStatus, TruthStore, UnconfirmedRouter},
    state::lock_holder::current_user,
};

/// The routers in a store, asked and told through their agents.
#[derive(Clone)]
pub(crate) struct AgentRouters {
    store: Arc<dyn TruthStore>,
    agents: Arc<AgentClient>,
    limits: ChangeLimits,
    /// nginx's configuration on this machine, if there is one.
    configuration: Option<std::path::PathBuf>,
    /// Held during a change. A caller that no longer waits for its change must not read the flags before the change ends.
    changing: Arc<Mutex<()>>,
}

/// A change without a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfenced {
    /// Waits until every router confirms it, or for 1.1 T. Fails if another change is prepared.
    Confirmed,
    /// The same, and decides over a prepared change.
    OverPrepared,
    /// Decides over a prepared change, and does not wait: the flag has no effect until a later change, which waits.
    Told,
}

impl AgentRouters {
    /// Connects to the store of the settings.
    pub(super) fn connect(settings: &Settings) -> Result<Self, PortError> {
        let token_file = settings.routers.token_file.as_deref();
        let token_file = token_file.unwrap_or(Path::new(""));
        let timeout = settings.probe.timeout;
        let store = connect_store(&settings.routers.store, token_file, timeout)?;
        Self::new(store, token_file, settings)
    }

    fn new(
        store: Arc<dyn TruthStore>,
        token_file: &Path,
        settings: &Settings,
    ) -> Result<Self, PortError> {
        Ok(Self {
            store,
            agents: Arc::new(AgentClient::new(token_file, settings.probe.timeout)?),
            limits: ChangeLimits {
                fence: settings.routers.fence,
                promises: settings.router.confirm_timeout,
                store: settings.router.confirm_timeout,
            },
            configuration: settings.router.configuration.clone(),
            changing: Arc::default(),
        })
    }

    /// Returns the truth when no change of this process is under way.
    async fn truth(&self) -> Result<Truth, PortError> {
        let _unchanged = self.changing.lock().await;
        Ok(self.store.read().await?.0)
    }

    /// Returns the registered routers, by name. Fails if there is none.
    async fn entries(&self) -> Result<Vec<RouterEntry>, PortError> {
        let mut entries = self.store.routers().await?;
        if entries.is_empty() {
            return Err(PortError::Invalid(
                "no router is registered in the store: start `deployer agent` on each router's machine"
                    .to_owned(),
            ));
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Asks every registered router for its state. Yields each answer as it arrives.
    async fn asked(
        &self,
    ) -> Result<impl Stream<Item = (RouterEntry, Result<RouterReport, PortError>)>, PortError> {
        let entries = self.entries().await?;
        let ask = |entry: RouterEntry| async move {
            let report = self.agents.state(&entry).await;
            let report = report.map_err(|error| error.context(&named(&entry)));
            (entry, report)
        };
        Ok(entries
            .into_iter()
            .map(ask)
            .collect::<FuturesUnordered<_>>())
    }

    /// Asks every registered router for its state, and waits for all answers. They are sorted by name.
    async fn reports(
        &self,
    ) -> Result<Vec<(RouterEntry, Result<RouterReport, PortError>)>, PortError> {
        let mut reports: Vec<_> = self.asked().await?.collect().await;
        reports.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        Ok(reports)
    }

    /// Makes a change that is refused, with every flag as it was, unless every router takes part.
    async fn fenced(
        &self,
        edit: FlagEdit,
        what: &str,
    ) -> Result<(Truth, Vec<UnconfirmedRouter>), PortError> {
        let by = format!("{what} by {} ({:08x})", current_user(), fastrand::u32(..));
        let outcome = self
            .to_the_end(self.limits, async move |driver| {
                let begin = |now| FencedChange::begin(edit, &by, driver.limits, now);
                driver.carry_out(begin).await
            })
            .await?;
        match outcome {
            Outcome::Done { truth, settled } => {
                if edit.apply(truth.flags) != truth.flags {
                    return Err(overtaken(&truth));
                }
                Ok((truth, unconfirmed(settled.waited_out, true)))
            }
            Outcome::Refused {
                because,
                left_prepared,
            } => {
                let because: Vec<String> = because.iter().map(ToString::to_string).collect();
                let because = because.join("; ");
                let left = if left_prepared {
                    "; the store may still hold it as prepared, until an agent or `deployer recover` aborts it"
                } else {
                    ""
                };
                Err(PortError::Other(format!(
                    "the change ({what}) was refused, and no router changed: {because}{left}"
                )))
            }
            Outcome::Overtaken { truth } => Err(overtaken(&truth)),
            Outcome::Unknown { error } => Err(PortError::TimedOut(format!(
                "it is unknown whether the change ({what}) was made, because the store does not answer: {error}"
            ))),
        }
    }

    /// Makes a change that no silent router refuses.
    async fn unfenced(
        &self,
        edit: FlagEdit,
        how: Unfenced,
    ) -> Result<(Truth, Vec<UnconfirmedRouter>), PortError> {
        let mut limits = self.limits;
        if how == Unfenced::Told {
            limits.fence = Duration::ZERO;
        }
        let over_prepared = how != Unfenced::Confirmed;
        let outcome = self
            .to_the_end(limits, async move |driver| {
                let begin = |now| Decide::begin(edit, over_prepared, driver.limits, now);
                driver.carry_out(begin).await
            })
            .await?;
        match outcome {
            DecideOutcome::Decided { truth, settled } => {
                let silent = match settled {
                    Some(settled) => settled.waited_out,
                    None => vec!["(the store does not list the routers)".to_owned()],
                };
                Ok((truth, unconfirmed(silent, false)))
            }
            DecideOutcome::OtherPrepared { by } => Err(PortError::Other(format!(
                "the flags cannot be changed while another change is prepared: {by}; it is aborted within seconds if its deployer is dead, or by `deployer recover`"
            ))),
            DecideOutcome::Failed { error, may_land } => {
                let may_land = if may_land {
                    ", and the change may still be made"
                } else {
                    ""
                };
                Err(PortError::TimedOut(format!(
                    "the store did not take the change{may_land}: {error}"
                )))
            }
        }
    }

    /// Runs a change in a task of its own, so that it ends as its protocol wants also if the caller no longer waits for it.
    async fn to_the_end<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        limits: ChangeLimits,
        change: impl FnOnce(Arc<Driver>) -> F,
    ) -> Result<T, PortError> {
        let changing: OwnedMutexGuard<()> = self.changing.clone().lock_owned().await;
        let driver = Arc::new(Driver {
            store: self.store.clone(),
            agents: self.agents.clone(),
            limits,
        });
        let change = change(driver);
        let task = tokio::spawn(async move {
            let outcome = change.await;
            drop(changing);
            outcome
        });
        task.await
            .map_err(|error| PortError::Other(format!("the change of the flags ended: {error}")))
    }

    /// What each router says, and why it cannot take part in a switch.
    async fn statuses(&self) -> Result<Vec<RouterStatus>, PortError> {
        let reports = self.reports().await?;
        let truth = self.store.read().await?.0;
        let status = |(entry, report): (RouterEntry, Result<RouterReport, PortError>)| match report
        {
            Ok(report) => RouterStatus {
                name: entry.name,
                problem: problem(&report, &truth),
                generation: report.generation,
                open: Some(report.open),
                active: report.active,
                in_flight: report.in_flight,
            },
            Err(error) => RouterStatus {
                name: entry.name,
                generation: None,
                open: None,
                active: None,
                in_flight: None,
                problem: Some(format!("its agent does not answer: {error}")),
            },
        };
        Ok(reports.into_iter().map(status).collect())
    }
}

/// Why the router cannot take part in a switch; `None` if it can.
fn problem(report: &RouterReport, truth: &Truth) -> Option<String> {
    let active = truth.flags.active;
    if report.generation < Some(truth.generation) {
        let known = report.generation.map_or_else(
            || "it has not read the store yet".to_owned(),
            |known| format!("it obeys generation {known}"),
        );
        return Some(format!(
            "{known}; the store holds generation {}",
            truth.generation
        ));
    }
    match report.active {
        None => Some("its nginx does not answer".to_owned()),
        // The router may know a newer truth than the one that was read before.
        Some(other) if other != active && report.generation == Some(truth.generation) => Some(
            format!("its nginx says {other} is active; the store says {active}"),
        ),
        Some(_) if !report.open => Some("it is closed: it answers clients with 503".to_owned()),
        Some(_) => None,
    }
}

fn named(router: &RouterEntry) -> String {
    format!("router {}", router.name)
}

fn overtaken(truth: &Truth) -> PortError {
    PortError::Other(format!(
        "another deployer changed the flags at the same time: {} has the traffic now",
        truth.flags.active
    ))
}

fn unconfirmed(names: Vec<String>, fenced: bool) -> Vec<UnconfirmedRouter> {
    let router = |name| UnconfirmedRouter { name, fenced };
    names.into_iter().map(router).collect()
}

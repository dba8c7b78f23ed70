//! The journal: what the deployer was doing, for the next command to find.
//!
//! The journal never decides where traffic goes. The router's flags do.

use crate::{
    deployment::{phase::Phase, plan::Plan},
    kill_point,
    monitor::standby::LastDeployment,
    ports::{Clock, JournalError, JournalStore, LockGuard, Ports},
    state::{
        approval::Waiting,
        history::HistoryEntry,
        journal_entries::{DeploymentEntry, JournalEntries},
        traffic_move::TrafficMove,
    },
};

/// The journal, with the lock held.
pub struct Journal<'a> {
    store: &'a dyn JournalStore,
    clock: &'a dyn Clock,
    _lock: LockGuard,
}

impl<'a> Journal<'a> {
    /// Takes the lock for `command`, such as `deploy v2`.
    pub async fn lock(ports: &'a Ports, command: &str) -> Result<Self, JournalError> {
        let journal = Self {
            _lock: ports.lock.acquire(command).await?,
            store: ports.journal.as_ref(),
            clock: ports.clock.as_ref(),
        };
        // The last deployer may have been killed after its last journal entry.
        let last = journal.read().await.unwrap_or_default().deployment;
        if let Some(end) = last.as_ref().and_then(DeploymentEntry::end) {
            let _ = journal.complete_history(&end).await;
        }
        Ok(journal)
    }

    /// Reads the entries.
    pub async fn read(&self) -> Result<JournalEntries, JournalError> {
        self.store.read().await
    }

    /// Writes durably that the deployment reached `phase`; an end also goes to the history.
    pub async fn record_phase(
        &self,
        plan: &Plan,
        phase: Phase,
        reason: Option<&str>,
    ) -> Result<(), JournalError> {
        self.record_phase_by(plan, phase, reason, None).await
    }

    /// The same. `by` is who ended the deployment, if that was not the user of this deployer.
    pub async fn record_phase_by(
        &self,
        plan: &Plan,
        phase: Phase,
        reason: Option<&str>,
        by: Option<&str>,
    ) -> Result<(), JournalError> {
        let entry = DeploymentEntry {
            plan: plan.clone(),
            phase,
            since: self.clock.now(),
            reason: reason.map(str::to_owned),
            by: by.map(str::to_owned),
            waiting: None,
            before: None,
        };
        let end = entry.end();
        let written = self.write_deployment(entry).await;
        let Some(end) = end else {
            return written;
        };
        // Also if the write failed: an append may succeed on a disk that is too full for a new file.
        let appended = self.complete_history(&end).await;
        written.and(appended)
    }

    async fn write_deployment(&self, mut entry: DeploymentEntry) -> Result<(), JournalError> {
        let mut entries = match self.read().await {
            // This deployment is what the next command must know.
            Err(JournalError::Damaged { .. }) => JournalEntries::default(),
            read => read?,
        };
        entry.before = before(entries.deployment.as_ref(), &entry.plan, entry.phase);
        let phase = entry.phase;
        entries.deployment = Some(entry);
        self.write(&entries, phase.as_str()).await
    }

    /// Writes durably that the deployment waits for approval, or that it does not wait any more.
    pub async fn set_waiting(
        &self,
        plan: &Plan,
        waiting: Option<&Waiting>,
    ) -> Result<(), JournalError> {
        let mut entries = self.read().await?;
        let own = entries.deployment.as_mut();
        let Some(entry) = own.filter(|entry| entry.plan.id == plan.id) else {
            return Ok(());
        };
        if entry.waiting.as_ref() == waiting {
            return Ok(());
        }
        entry.waiting = waiting.cloned();
        let change = if waiting.is_some() {
            "waiting"
        } else {
            "waiting off"
        };
        self.write(&entries, change).await
    }

    /// Writes durably which move of traffic is about to happen, so that the next command understands it if this
    /// deployer is killed.
    pub async fn begin_move(&self, traffic_move: &TrafficMove) -> Result<(), JournalError> {
        let mut entries = self.read().await?;
        entries.traffic_move = Some(traffic_move.clone());
        self.write(&entries, "move").await
    }

    /// Removes the move: it is completed or undone, and recorded.
    pub async fn finish_move(&self) -> Result<(), JournalError> {
        let mut entries = self.read().await?;
        if entries.traffic_move.take().is_none() {
            return Ok(());
        }
        self.write(&entries, "move off").await
    }

    /// The history, oldest entry first.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, JournalError> {
        Ok(self.store.read_history().await?.entries)
    }

    /// Adds an action to the history.
    pub async fn append_history(&self, entry: &HistoryEntry) -> Result<(), JournalError> {
        let action = entry.action.as_str();
        kill_point::pass(format_args!("before history {action}"));
        self.store.append_history(entry).await?;
        kill_point::pass(format_args!("after history {action}"));
        Ok(())
    }

    /// Adds the end of a deployment to the history if it is missing.
    async fn complete_history(&self, end: &HistoryEntry) -> Result<(), JournalError> {
        let same = |other: &HistoryEntry| (&other.id, other.action) == (&end.id, end.action);
        if self.history().await?.iter().any(same) {
            return Ok(());
        }
        self.append_history(end).await
    }

    async fn write(&self, entries: &JournalEntries, change: &str) -> Result<(), JournalError> {
        kill_point::pass(format_args!("before journal {change}"));
        self.store.write(entries).await?;
        kill_point::pass(format_args!("after journal {change}"));
        Ok(())
    }
}

/// The last deployment before `plan`, if `plan` has touched no server in `phase`. `last` is what the journal has now.
fn before(last: Option<&DeploymentEntry>, plan: &Plan, phase: Phase) -> Option<LastDeployment> {
    if phase == Phase::Planned {
        let last = last.map(DeploymentEntry::last_deployment);
        return Some(last.unwrap_or_default());
    }
    let last = last.filter(|last| last.plan.id == plan.id && last.phase == Phase::Planned)?;
    last.before.clone().filter(|_| phase.is_end())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{adapters::connect_in, color::Color, release::Release, state::action::Action};

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release)
    }

    async fn history(ports: &Ports) -> Vec<HistoryEntry> {
        ports.journal.read_history().await.unwrap().entries
    }

    #[tokio::test]
    async fn end_is_in_history_once_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let (ports, plan) = (connect_in(directory.path()), plan());
        let journal = Journal::lock(&ports, "deploy v2").await.unwrap();
        journal
            .record_phase(&plan, Phase::Planned, None)
            .await
            .unwrap();
        assert_eq!(history(&ports).await, []);
        journal
            .record_phase(&plan, Phase::Promoted, None)
            .await
            .unwrap();
        assert_eq!(history(&ports).await.len(), 1);
        drop(journal);
        std::fs::remove_file(directory.path().join("history.jsonl")).unwrap();
        for _ in 0..2 {
            drop(Journal::lock(&ports, "deploy v3").await.unwrap());
        }
        let history = history(&ports).await;
        let [only] = &history[..] else {
            panic!("{history:?}");
        };
        assert_eq!(only.action, Action::Promoted);
        assert_eq!(only.id, Some(plan.id));
    }

    #[tokio::test]
    async fn last_phase_is_read_by_the_next_command() {
        let directory = tempfile::tempdir().unwrap();
        let (ports, plan) = (connect_in(directory.path()), plan());
        let journal = Journal::lock(&ports, "deploy v2").await.unwrap();
        assert_eq!(journal.read().await.unwrap(), JournalEntries::default());
        journal
            .record_phase(&plan, Phase::Planned, None)
            .await
            .unwrap();
        let reason = Some("it never became healthy");
        journal
            .record_phase(&plan, Phase::Refused, reason)
            .await
            .unwrap();
        let last = ports.journal.read().await.unwrap().deployment.unwrap();
        assert_eq!(last.phase, Phase::Refused);
        assert_eq!(last.plan, plan);
        assert_eq!(last.reason.as_deref(), reason);
    }

    #[tokio::test]
    async fn move_and_unfinished_deployment_are_kept_together() {
        let directory = tempfile::tempdir().unwrap();
        let (ports, plan) = (connect_in(directory.path()), plan());
        let journal = Journal::lock(&ports, "switch green").await.unwrap();
        journal
            .record_phase(&plan, Phase::Starting, None)
            .await
            .unwrap();
        let traffic_move = TrafficMove::switch_to(Color::Green);
        journal.begin_move(&traffic_move).await.unwrap();
        journal
            .record_phase(&plan, Phase::Halted, None)
            .await
            .unwrap();
        let entries = journal.read().await.unwrap();
        assert_eq!(entries.traffic_move, Some(traffic_move));
        assert_eq!(entries.unfinished_deployment(), None);
        journal.finish_move().await.unwrap();
        let entries = journal.read().await.unwrap();
        assert_eq!(entries.traffic_move, None);
        assert_eq!(entries.deployment.unwrap().phase, Phase::Halted);
    }

    #[tokio::test]
    async fn untouched_deployment_keeps_the_last_deployment() {
        let directory = tempfile::tempdir().unwrap();
        let (ports, plan) = (connect_in(directory.path()), plan());
        let journal = Journal::lock(&ports, "deploy v2").await.unwrap();
        let next = Plan {
            id: "next".to_owned(),
            ..plan.clone()
        };
        // The last deployment after each phase that is recorded.
        let steps = [
            (plan.clone(), Phase::Planned, None),
            (
                plan.clone(),
                Phase::Starting,
                Some((plan.id.clone(), Phase::Starting)),
            ),
            (
                plan.clone(),
                Phase::Promoted,
                Some((plan.id.clone(), Phase::Promoted)),
            ),
            (
                next.clone(),
                Phase::Planned,
                Some((plan.id.clone(), Phase::Promoted)),
            ),
            (
                next.clone(),
                Phase::Refused,
                Some((plan.id.clone(), Phase::Promoted)),
            ),
            (
                next.clone(),
                Phase::Planned,
                Some((plan.id.clone(), Phase::Promoted)),
            ),
            (
                next.clone(),
                Phase::Starting,
                Some((next.id.clone(), Phase::Starting)),
            ),
            (
                next.clone(),
                Phase::Refused,
                Some((next.id.clone(), Phase::Refused)),
            ),
        ];
        for (plan, phase, expected) in steps {
            journal.record_phase(&plan, phase, None).await.unwrap();
            let last = journal.read().await.unwrap().last_deployment();
            assert_eq!(last.deployment, expected, "{} {phase}", plan.id);
        }
    }
}

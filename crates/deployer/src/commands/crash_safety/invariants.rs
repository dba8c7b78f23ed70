//! Invariants of a machine after a kill, and of a recovered machine.

use crate::{
    color::Color,
    commands::crash_safety::machine::{Command, Ending, Machine, index},
    deployment::phase::Phase,
    exit_code,
    ports::JournalStore as _,
    state::{action::Action, history::HistoryEntry, journal_entries::DeploymentEntry},
};

impl Machine {
    /// Asserts what holds at every moment: a server answers clients, `deployer status` agrees with the flags, and
    /// only proven releases are fit.
    pub(super) async fn assert_invariants(&self) {
        let status = self.status().await;
        let flags = self.flags();
        let active = flags.active();
        assert_eq!(status["active"], active.name(), "{status:#}");
        assert!(
            status["lock_holder"].is_null(),
            "the lock is held: {status:#}"
        );
        assert_eq!(status["problems"], serde_json::json!([]), "{status:#}");
        // No deployer is at work that could be answered.
        let waiting = &status["last_deployment"]["waiting"];
        assert!(waiting.is_null(), "{status:#}");
        let public_version = self.public_version();
        assert!(
            public_version.is_some(),
            "no server answers clients: {status:#}"
        );
        for color in Color::BOTH {
            let (server, reported) = (self.server(color), &status["colors"][index(color)]);
            assert_eq!(reported["fit"], flags.is_fit(color), "{status:#}");
            assert_eq!(reported["healthy"], server.running.is_some(), "{status:#}");
            let Some(version) = server.running else {
                continue;
            };
            assert_eq!(reported["model_version"], *version, "{status:#}");
            if color == active {
                assert_eq!(public_version.as_ref(), Some(&version), "{status:#}");
            }
            if flags.is_fit(color) {
                assert!(
                    self.is_proven(color, &version),
                    "{version} is fit and not proven: {status:#}"
                );
            }
        }
        let standby = active.other();
        let entries = self.journal().read().await.expect("a journal");
        let history = self.journal().read_history().await.expect("a history");
        let version = self.server(standby).running;
        let can_roll_back = flags.is_fit(standby)
            && version.is_some()
            && !entries.nothing_to_roll_back(&history.entries, active, version.as_deref());
        assert_eq!(status["can_roll_back"], can_roll_back, "{status:#}");
    }

    /// Asserts the recovered state: one healthy and proven color has the traffic, journal and history agree,
    /// `deployer recover` has nothing to do, and the next deployment is promoted.
    pub(super) async fn assert_recovered(&self) {
        self.assert_invariants().await;
        let active = self.flags().active();
        let version = self.server(active).running;
        let version = version.unwrap_or_else(|| panic!("{active} is active and does not run"));
        assert!(
            self.is_proven(active, &version),
            "{version} has the traffic and was not proven"
        );
        let entries = self.journal().read().await.expect("a journal");
        assert_eq!(entries.traffic_move, None, "a pending move is left");
        let last = entries.deployment.as_ref();
        assert!(
            last.is_none_or(|entry| entry.waiting.is_none()),
            "a question is left"
        );
        assert!(
            !self.file_exists("flags/shadow"),
            "the router still copies requests"
        );
        self.assert_recorded_once(active).await;
        self.assert_nothing_to_recover().await;
        self.assert_next_deployment_is_promoted(active).await;
    }

    async fn last_entry(&self) -> Option<DeploymentEntry> {
        let entries = self.journal().read().await;
        entries.expect("a journal").deployment
    }

    /// Asserts that journal and history record the end of the deployment once.
    async fn assert_recorded_once(&self, active: Color) {
        let history = self.journal().read_history().await.expect("a history");
        assert!(history.torn.is_empty(), "{history:#?}");
        let verified = self.journal().verify_history(None).expect("a history");
        assert_eq!(verified.breaks, [], "a kill broke the chain");
        let entries = history.entries;
        for pair in entries.windows(2) {
            let [earlier, later] = [&pair[0], &pair[1]].map(|it| (it.action, it.color, &it.id));
            assert_ne!(earlier, later, "the history has the same entry twice");
            // The rolled back color may not stand in, so traffic cannot roll back to it again.
            let rolled_back = pair.iter().all(|it| it.action == Action::RolledBack);
            assert!(
                !rolled_back || pair[1].id.is_some(),
                "the history has the same rollback twice: {pair:#?}"
            );
        }
        let Some(DeploymentEntry { plan, phase, .. }) = self.last_entry().await else {
            // No deployment has begun. A person may have moved traffic.
            let expected = entries.last().map_or(Color::Blue, |last| last.color);
            assert_eq!(active, expected);
            assert!(entries.iter().all(|it| it.id.is_none()), "{entries:#?}");
            return;
        };
        let moved_nothing = |it: &&HistoryEntry| {
            matches!(
                it.action,
                Action::Restored | Action::NotRestored | Action::Stopped
            )
        };
        let last = entries.iter().rev().find(|it| !moved_nothing(it));
        let last = last.expect("a history");
        match phase {
            // Since the deployment, a person or the monitor moved traffic.
            _ if last.id.is_none() => assert_eq!(active, last.color),
            Phase::Promoted => assert_eq!(active, plan.idle),
            Phase::Refused | Phase::RolledBack => assert_eq!(active, plan.active),
            _ => panic!("unexpected last phase: {phase}"),
        }
        let ends = entries
            .iter()
            .filter(|it| it.id.as_ref() == Some(&plan.id) && Action::of(phase) == Some(it.action));
        assert_eq!(
            ends.count(),
            1,
            "the history does not record {phase} of {} once: {entries:#?}",
            plan.id
        );
    }

    /// Asserts that another `deployer recover` changes nothing.
    async fn assert_nothing_to_recover(&self) {
        let before = self.snapshot();
        let run = self.run(Command::Recover, None).await;
        let text = run.assert_success("recover");
        assert!(text.contains("nothing to recover"), "{text}");
        assert_eq!(run.points, [""; 0], "`recover` passed a kill point");
        assert!(
            before.files().eq(self.snapshot().files()),
            "`recover` changed a file"
        );
    }

    async fn assert_next_deployment_is_promoted(&self, active: Color) {
        let run = self.run(Command::Deploy("next"), None).await;
        run.assert_success("deploy next");
        self.assert_invariants().await;
        let entry = self
            .last_entry()
            .await
            .map(|it| (it.plan.release.version, it.phase));
        assert_eq!(entry, Some(("next".to_owned(), Phase::Promoted)));
        let flags = self.flags();
        assert_eq!(flags.active(), active.other());
        assert_eq!(self.public_version().as_deref(), Some("next"));
        assert!(Color::BOTH.into_iter().all(|color| flags.is_fit(color)));
    }
}

impl super::machine::Run {
    /// Asserts that the command succeeded. Returns its output.
    pub(super) fn assert_success(&self, command: &str) -> String {
        match &self.ending {
            Ending::Completed(Ok(output)) => {
                assert_eq!(output.code, exit_code::FINE, "{command}: {}", output.text);
                output.text.clone()
            }
            Ending::Completed(Err(error)) => panic!("{command} failed: {error}"),
            Ending::Killed => panic!("{command} was killed"),
        }
    }
}

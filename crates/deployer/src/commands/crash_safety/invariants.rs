//! Invariants of a machine whose deployer was killed, and of a recovered one.

use crate::{
    color::Color,
    commands::crash_safety::machine::{Command, Ending, Machine, index},
    deployment::phase::Phase,
    exit_code,
    state::{
        history::{self, Action},
        journal::{self, Entry},
    },
};

impl Machine {
    /// Holds at every moment: clients are answered, flags and `status` agree, and only proven releases stand
    /// in.
    pub(super) async fn assert_true(&self) {
        let status = self.status().await;
        let flags = self.flags();
        let active = flags.active();
        assert_eq!(status["active"], active.name(), "{status:#}");
        assert!(
            status["lock_holder"].is_null(),
            "the lock is held: {status:#}"
        );
        assert_eq!(status["problems"], serde_json::json!([]), "{status:#}");
        let answers = self.answers_clients();
        assert!(answers.is_some(), "no server answers clients: {status:#}");
        for color in Color::BOTH {
            let (server, said) = (self.server(color), &status["colors"][index(color)]);
            assert_eq!(said["fit"], flags.is_fit(color), "{status:#}");
            assert_eq!(said["healthy"], server.runs.is_some(), "{status:#}");
            let Some(version) = server.runs else { continue };
            assert_eq!(said["model_version"], *version, "{status:#}");
            if color == active {
                assert_eq!(answers.as_ref(), Some(&version), "{status:#}");
            }
            if flags.is_fit(color) {
                assert!(
                    self.is_proven(color, &version),
                    "fit and not proven: {status:#}"
                );
            }
        }
        let standby = active.other();
        let can_roll_back = flags.is_fit(standby) && self.server(standby).runs.is_some();
        assert_eq!(status["can_roll_back"], can_roll_back, "{status:#}");
    }

    /// Holds after `deployer recover`: traffic is on one healthy color, journal and history agree, nothing is
    /// left to do, and the next deployment succeeds.
    pub(super) async fn assert_settled(&self) {
        self.assert_true().await;
        let active = self.flags().active();
        let version = self.server(active).runs;
        let version = version.unwrap_or_else(|| panic!("{active} is active and does not run"));
        assert!(
            self.is_proven(active, &version),
            "{version} has the traffic and was not proven"
        );
        assert!(!self.has("state/move.json"), "a pending move is left");
        assert!(!self.has("flags/shadow"), "copies are still made");
        self.assert_told(active);
        self.assert_nothing_to_recover().await;
        self.assert_next_deployment_is_promoted(active).await;
    }

    fn last(&self) -> Option<Entry> {
        journal::last_entry(&self.settings.state).expect("a journal")
    }

    /// Journal and history record the end once.
    fn assert_told(&self, active: Color) {
        let read = history::read(&self.settings.state).expect("a history");
        assert!(read.torn.is_empty(), "{read:#?}");
        let past = read.entries;
        for lines in past.windows(2) {
            let [one, two] = [&lines[0], &lines[1]].map(|it| (it.action, it.color, &it.id));
            assert_ne!(one, two, "told twice");
        }
        let Some(Entry { plan, phase, .. }) = self.last() else {
            // Nothing was deployed yet; a person may have moved traffic.
            let moved = past.last().map_or(Color::Blue, |last| last.color);
            assert_eq!(active, moved);
            assert!(past.iter().all(|it| it.id.is_none()), "{past:#?}");
            return;
        };
        let last = past.last().expect("a history");
        match phase {
            // Traffic moved outside of a deployment since.
            _ if last.id.is_none() => assert_eq!(active, last.color),
            Phase::Promoted => assert_eq!(active, plan.idle),
            Phase::Refused | Phase::RolledBack => assert_eq!(active, plan.active),
            _ => panic!("unexpected last phase: {phase}"),
        }
        let ends = past
            .iter()
            .filter(|it| it.id.as_ref() == Some(&plan.id) && Action::of(phase) == Some(it.action));
        assert_eq!(
            ends.count(),
            1,
            "{phase} of {} is not told once: {past:#?}",
            plan.id
        );
    }

    /// A second `deployer recover` finds and changes nothing.
    async fn assert_nothing_to_recover(&self) {
        let before = self.snapshot();
        let run = self.run(Command::Recover, None).await;
        let text = run.succeeded("recover");
        assert!(text.contains("nothing to recover"), "{text}");
        assert_eq!(run.points, [""; 0], "it changed something");
        assert!(
            before.files().eq(self.snapshot().files()),
            "it changed a file"
        );
    }

    async fn assert_next_deployment_is_promoted(&self, active: Color) {
        let run = self.run(Command::Deploy("next"), None).await;
        run.succeeded("deploy next");
        self.assert_true().await;
        let entry = self.last().map(|it| (it.plan.release.version, it.phase));
        assert_eq!(entry, Some(("next".to_owned(), Phase::Promoted)));
        let flags = self.flags();
        assert_eq!(flags.active(), active.other());
        assert_eq!(self.answers_clients().as_deref(), Some("next"));
        assert!(Color::BOTH.into_iter().all(|color| flags.is_fit(color)));
    }
}

impl super::machine::Run {
    /// The output of a command that must have succeeded.
    pub(super) fn succeeded(&self, command: &str) -> String {
        match &self.ending {
            Ending::CommandOutput(Ok(done)) => {
                assert_eq!(done.code, exit_code::FINE, "{command}: {}", done.text);
                done.text.clone()
            }
            Ending::CommandOutput(Err(error)) => panic!("{command} failed: {error}"),
            Ending::Killed => panic!("{command} was killed"),
        }
    }
}

//! What must be true of a machine whose deployer was killed, and of one that was recovered.

use super::machine::{Command, Ending, Machine, index};
use crate::{
    color::Color,
    exit_code,
    history::{self, Deed},
    journal::{self, Entry},
    phase::Phase,
};

impl Machine {
    /// Holds at every moment: clients are answered, flags and `status` tell the truth, and no release
    /// stands in that was not proven.
    pub(super) async fn assert_true(&self) {
        let status = self.status().await;
        let flags = self.flags();
        let active = flags.active();
        assert_eq!(status["active"], active.name(), "{status:#}");
        assert!(status["at_work"].is_null(), "the lock is held: {status:#}");
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

    /// Holds when `deployer recover` is done: traffic is on one healthy color, the journal and the history
    /// agree about it, nothing is left to do, and the next deployment goes through.
    pub(super) async fn assert_settled(&self) {
        self.assert_true().await;
        let active = self.flags().active();
        let version = self.server(active).runs;
        let version = version.unwrap_or_else(|| panic!("{active} is active and does not run"));
        assert!(
            self.is_proven(active, &version),
            "{version} has the traffic and was not proven"
        );
        assert!(!self.has("state/intent.json"), "an intent is left");
        assert!(!self.has("flags/shadow"), "copies are still made");
        self.assert_told(active);
        self.assert_nothing_to_recover().await;
        self.assert_next_deployment_is_promoted(active).await;
    }

    fn last(&self) -> Option<Entry> {
        journal::last_entry(&self.settings.state).expect("a journal")
    }

    /// The journal and the history say how it ended, once.
    fn assert_told(&self, active: Color) {
        let read = history::read(&self.settings.state).expect("a history");
        assert!(read.torn.is_empty(), "{read:#?}");
        let past = read.past;
        for lines in past.windows(2) {
            let [one, two] = [&lines[0], &lines[1]].map(|it| (it.deed, it.color, &it.id));
            assert_ne!(one, two, "told twice");
        }
        let Some(Entry { plan, phase, .. }) = self.last() else {
            // Nothing was deployed yet, and perhaps a person moved traffic.
            let moved = past.last().map_or(Color::Blue, |last| last.color);
            assert_eq!(active, moved);
            assert!(past.iter().all(|it| it.id.is_none()), "{past:#?}");
            return;
        };
        let last = past.last().expect("a history");
        match phase {
            // Traffic was moved without a deployment since.
            _ if last.id.is_none() => assert_eq!(active, last.color),
            Phase::Promoted => assert_eq!(active, plan.idle),
            Phase::Refused | Phase::RolledBack => assert_eq!(active, plan.active),
            _ => panic!("unexpected last phase: {phase}"),
        }
        let ends = past
            .iter()
            .filter(|it| it.id.as_ref() == Some(&plan.id) && Deed::of(phase) == Some(it.deed));
        assert_eq!(
            ends.count(),
            1,
            "{phase} of {} is not told once: {past:#?}",
            plan.id
        );
    }

    /// A second `deployer recover` finds nothing, and changes nothing.
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
    /// What the command said; it must have done what it was asked.
    pub(super) fn succeeded(&self, command: &str) -> String {
        match &self.ending {
            Ending::Done(Ok(done)) => {
                assert_eq!(done.code, exit_code::FINE, "{command}: {}", done.text);
                done.text.clone()
            }
            Ending::Done(Err(error)) => panic!("{command} failed: {error}"),
            Ending::Killed => panic!("{command} was killed"),
        }
    }
}

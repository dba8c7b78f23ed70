//! Which actions are possible now. Pure.

use jiff::Timestamp;

use crate::{
    color::Color,
    deployment::phase::Phase,
    monitor::page::view::{PageView, Rollback},
    report::record::{ApprovalRecord, Record},
};

/// An action that is possible now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Possible {
    /// Approve the deployment, which waits.
    Approve {
        deployment: String,
        evidence: String,
        before: Phase,
        expires: Timestamp,
    },
    /// Reject the deployment, which waits.
    Reject {
        deployment: String,
        is_switched: bool,
    },
    /// End the deployment before its switch.
    Abort { deployment: String },
    /// End the bake early.
    Promote { deployment: String },
    /// End the deployment after its switch.
    RollBackCandidate { deployment: String, to: Color },
    /// Move traffic outside of a deployment.
    RollBack {
        /// The release that loses the traffic, if its server names it.
        from: String,
        to: Color,
        version: String,
    },
    /// Let the idle color stand in, or not.
    StandIn { color: Color, fit: bool },
}

impl Possible {
    /// Returns the actions that are possible now; none with the reason.
    pub(crate) fn of(view: &PageView) -> Result<Vec<Self>, String> {
        if let Some(record) = view.under_way() {
            return Ok(Self::of_deployment(record));
        }
        if let Some(holder) = &view.holder {
            return Err(format!("{holder} is at work"));
        }
        let Some(active) = view.active else {
            return Err("it is not known which color is active".to_owned());
        };
        let mut actions = Vec::new();
        if let Rollback::To(to, version) = &view.round.rollback {
            let from = view.card(active).version.clone();
            actions.push(Self::RollBack {
                from: from.unwrap_or_else(|| active.name().to_owned()),
                to: *to,
                version: version.clone(),
            });
        }
        if let Some(interrupted) = &view.round.interrupted {
            // Flags are the deployment's until it is recovered. A rollback may not wait for that.
            return if actions.is_empty() {
                Err(interrupted.clone())
            } else {
                Ok(actions)
            };
        }
        let idle = active.other();
        match view.card(idle) {
            card if card.fit == Some(true) => actions.push(Self::StandIn {
                color: idle,
                fit: false,
            }),
            card if card.fit == Some(false) && card.is_proven => actions.push(Self::StandIn {
                color: idle,
                fit: true,
            }),
            _ => {}
        }
        match (actions.is_empty(), &view.round.rollback) {
            (true, Rollback::Impossible(reason)) => Err(reason.clone()),
            _ => Ok(actions),
        }
    }

    fn of_deployment(record: &Record) -> Vec<Self> {
        let deployment = || record.plan.id.clone();
        let is_switched = record.phase() == Some(Phase::Switched);
        let to = record.plan.active;
        let mut actions = Vec::new();
        if let Some(asked) = awaited(record) {
            actions.push(Self::Approve {
                deployment: deployment(),
                evidence: asked.evidence.clone(),
                before: asked.before,
                expires: asked.expires,
            });
            actions.push(Self::Reject {
                deployment: deployment(),
                is_switched,
            });
        } else if is_switched {
            actions.push(Self::Promote {
                deployment: deployment(),
            });
        }
        actions.push(if is_switched {
            Self::RollBackCandidate {
                deployment: deployment(),
                to,
            }
        } else {
            Self::Abort {
                deployment: deployment(),
            }
        });
        actions
    }
}

/// The question that the deployment waits for; `None` if it waits for none.
pub(crate) fn awaited(record: &Record) -> Option<&ApprovalRecord> {
    let asked = record.approvals.last()?;
    let is_next = record
        .phase()
        .is_some_and(|phase| phase.on_success() == Some(asked.before));
    (asked.decided.is_none() && is_next).then_some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::page::samples::{self, Situation};

    #[test]
    fn interrupted_deployment_offers_a_rollback_and_nothing_else() {
        let mut view = samples::view(Situation::Interrupted);
        let reason = Possible::of(&view).unwrap_err();
        assert!(reason.contains("deployer recover"), "{reason}");
        view.round.rollback = Rollback::To(Color::Blue, "v2.3.2".to_owned());
        let expected = Possible::RollBack {
            from: "v2.4.0".to_owned(),
            to: Color::Blue,
            version: "v2.3.2".to_owned(),
        };
        assert_eq!(Possible::of(&view), Ok(vec![expected]));
    }

    #[test]
    fn question_that_was_decided_or_outlived_is_not_awaited() {
        let record = samples::record(Situation::WaitingBeforeSwitch).unwrap();
        assert!(awaited(&record).is_some());
        let mut decided = record.clone();
        decided.approvals[0].decided = Some(samples::at(0));
        assert_eq!(awaited(&decided), None);
        // Another deployer continued behind the question.
        let mut later = record;
        later.approvals[0].before = Phase::Promoted;
        assert_eq!(awaited(&later), None);
    }

    #[test]
    fn other_command_at_work_allows_no_action() {
        let mut view = samples::view(Situation::Promoted);
        let mut holder = samples::view(Situation::Testing).holder.unwrap();
        holder.command = "up".to_owned();
        view.holder = Some(holder);
        let reason = Possible::of(&view).unwrap_err();
        assert!(reason.contains("`up` by ci@builder"), "{reason}");
    }
}

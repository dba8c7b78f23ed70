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
        if let Some(interrupted) = &view.round.interrupted {
            return Err(format!("{interrupted} Until then, a shell must act"));
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
        let idle = active.other();
        match view.card(idle) {
            card if card.fit == Some(true) => actions.push(Self::StandIn {
                color: idle,
                fit: false,
            }),
            card if card.fit == Some(false) && card.trouble.is_none() && card.version.is_some() => {
                actions.push(Self::StandIn {
                    color: idle,
                    fit: true,
                });
            }
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

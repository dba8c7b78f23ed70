//! The question of a deployment that waits for approval, as a notification.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::{
    adapters::notify::{
        Notifier,
        notification::{Kind, Notification},
    },
    deployment::{phase::Phase, plan::Plan},
    event::{Event, Reporter},
};

/// Queues a notification when a deployment asks for approval.
pub struct Questions<'a> {
    notifier: &'a Notifier,
    /// The address of the page on which a person can approve, if there is one.
    page: Option<String>,
    /// The deployment that is under way.
    plan: Mutex<Option<Plan>>,
}

impl<'a> Questions<'a> {
    /// Questions to the receivers of `notifier`, with a link to `page` if there is one.
    #[must_use]
    pub fn new(notifier: &'a Notifier, page: Option<String>) -> Self {
        Self {
            notifier,
            page,
            plan: Mutex::default(),
        }
    }
}

impl Reporter for Questions<'_> {
    fn report(&self, event: &Event<'_>) {
        let mut under_way = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Planned { plan } | Event::Resumed { plan, .. } => {
                *under_way = Some((*plan).clone());
            }
            Event::ApprovalAwaited {
                before,
                evidence,
                expires,
            } => {
                if let Some(plan) = &*under_way {
                    let text = describe(plan, *before, evidence, *expires, self.page.as_deref());
                    self.notifier.ask(plan, text, self.page.clone());
                }
            }
            _ => {}
        }
    }
}

impl Notifier {
    /// Queues the question of a deployment for every receiver.
    fn ask(&self, plan: &Plan, text: String, link: Option<String>) {
        let (at, color) = (Timestamp::now(), Some(plan.idle));
        let asked = self.notification(Kind::ApprovalAwaited, at, color, text);
        self.queue(&Notification {
            deployment: Some(plan.id.clone()),
            version: Some(plan.release.version.clone()),
            link,
            ..asked
        });
    }
}

/// Says what waits, until when, and how to decide.
fn describe(
    plan: &Plan,
    before: Phase,
    evidence: &str,
    expires: Timestamp,
    page: Option<&str>,
) -> String {
    let (version, color, id) = (&plan.release.version, plan.idle, &plan.id);
    let otherwise = if before == Phase::Promoted {
        "rolled back"
    } else {
        "refused"
    };
    let page = page.map_or_else(String::new, |page| format!("{page}, or "));
    format!(
        "{version} on {color} waits for approval before {before}. Without a decision it is {otherwise} at {expires:.0}. Decide: {page}`deployer approve {id} --evidence {} --reason TEXT` or `deployer reject {id} --reason TEXT`",
        evidence.get(..12).unwrap_or(evidence)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapters::notify::tests::notifier, color::Color, release::Release};

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release)
    }

    #[test]
    fn question_reaches_receivers_with_link_and_commands() {
        let state = tempfile::tempdir().unwrap();
        let notifier = notifier(state.path(), &["webhook"]);
        let page = "https://deployer.example/".to_owned();
        let questions = Questions::new(&notifier, Some(page.clone()));
        let plan = plan();
        let awaited = Event::ApprovalAwaited {
            before: Phase::Switched,
            evidence: "0123456789abcdef",
            expires: Timestamp::UNIX_EPOCH,
        };
        questions.report(&awaited);
        assert_eq!(notifier.undelivered(), [], "no deployment is under way");
        questions.report(&Event::Planned { plan: &plan });
        questions.report(&awaited);
        let undelivered = notifier.undelivered();
        let [asked] = &undelivered[..] else {
            panic!("{undelivered:?}");
        };
        let body = asked.for_webhook();
        assert_eq!(body["kind"], "approval_awaited");
        assert_eq!(body["deployment"], plan.id);
        assert_eq!(body["link"], page);
        let command = format!(
            "deployer approve {} --evidence 0123456789ab --reason",
            plan.id
        );
        for part in ["refused at 1970-01-01T00:00:00Z", &page, &command] {
            assert!(asked.text.contains(part), "{part} is not in {}", asked.text);
        }
    }
}

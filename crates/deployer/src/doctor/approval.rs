//! Whether a person hears that a deployment waits for approval.

use crate::{adapters::notify::Notifier, config::Settings, doctor::finding::Finding};

/// The finding; `None` if no deployment waits for approval.
pub(crate) fn approval(settings: &Settings) -> Option<Finding> {
    const TOPIC: &str = "approval";

    let approval = &settings.approval;
    if approval.before.is_empty() {
        return None;
    }
    let before = approval
        .before
        .iter()
        .map(|point| point.phase().name())
        .collect::<Vec<&str>>()
        .join(" and ");
    let limit = humantime::format_duration(approval.expires);
    if Notifier::new(settings).has_receivers() {
        let text = format!("deployments wait for it before {before}, for at most {limit}");
        return Some(Finding::fine(TOPIC, text));
    }
    Some(Finding::wrong(
        TOPIC,
        format!(
            "deployments wait for it before {before} for at most {limit}, and no receiver of notifications hears that"
        ),
        "set alerts.webhook or alerts.slack; `deployer status` shows what waits",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approval_without_receiver_is_a_problem() {
        let state = tempfile::tempdir().unwrap();
        let finding = |overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
            let mut settings = crate::config::load(None, &overrides).unwrap();
            state.path().clone_into(&mut settings.state);
            approval(&settings)
        };
        assert_eq!(finding(&[]), None);
        let before = r#"approval.before=["switched", "promoted"]"#;
        let alone = finding(&[before]).unwrap();
        assert!(alone.advice.is_some(), "{alone:?}");
        let heard = finding(&[before, "alerts.slack=http://127.0.0.1:1/"]).unwrap();
        assert_eq!(
            heard.text,
            "deployments wait for it before switched and promoted, for at most 1h"
        );
        assert_eq!(heard.advice, None);
    }
}

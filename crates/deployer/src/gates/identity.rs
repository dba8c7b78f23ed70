//! The gate `identity`: is the candidate the wanted release?

use async_trait::async_trait;

use crate::{
    evidence::verdict::{Conclusion, Verdict},
    gates::gate::{Candidate, Gate},
    ports::Target,
    release::{Health, Release},
};

/// Compares name, version, and digest.
#[derive(Debug)]
pub struct Identity;

#[async_trait]
impl Gate for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        match candidate
            .ports
            .probe
            .health(Target::Server(candidate.color))
            .await
        {
            Ok(health) => compare(candidate.release, &health),
            Err(error) => Verdict::new(
                Conclusion::Fail,
                format!("its identity could not be read: {error}"),
            ),
        }
    }
}

/// Compares what a server reports with the wanted release.
#[must_use]
pub fn compare(wanted: &Release, health: &Health) -> Verdict {
    let fields = [
        (
            "model name",
            Some(&wanted.model),
            health.model_name.as_ref(),
        ),
        (
            "version",
            Some(&wanted.version),
            health.model_version.as_ref(),
        ),
        (
            "digest",
            wanted.digest.as_ref(),
            health.model_digest.as_ref(),
        ),
    ];
    let mut same = Vec::new();
    let mut unknown = Vec::new();
    for (what, wanted, reported) in fields {
        match (wanted, reported) {
            (Some(wanted), Some(reported)) if wanted == reported => same.push(what),
            (Some(wanted), Some(reported)) => {
                return Verdict::new(
                    Conclusion::Fail,
                    format!("it reports {what} {reported}, but {wanted} is wanted"),
                );
            }
            (None, _) => unknown.push(format!("{what} (not known here)")),
            (_, None) => unknown.push(format!("{what} (not reported)")),
        }
    }
    let unknown = unknown.join(", ");
    match (same.is_empty(), unknown.is_empty()) {
        (true, _) => Verdict::new(
            Conclusion::Skipped,
            format!("nothing to compare: {unknown}"),
        ),
        (false, true) => Verdict::new(Conclusion::Pass, format!("{} as wanted", same.join(", "))),
        (false, false) => Verdict::new(
            Conclusion::Pass,
            format!("{} as wanted; not compared: {unknown}", same.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Release {
        Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: Some("abc".to_owned()),
        }
    }

    fn reported(version: &str, digest: Option<&str>) -> Health {
        Health {
            model_name: Some("sentiment".to_owned()),
            model_version: Some(version.to_owned()),
            model_digest: digest.map(str::to_owned),
            ..Health::default()
        }
    }

    #[test]
    fn wanted_release_passes_identity() {
        let verdict = compare(&wanted(), &reported("v2", Some("abc")));
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert_eq!(verdict.summary, "model name, version, digest as wanted");
    }

    #[test]
    fn stale_version_fails_and_both_versions_are_named() {
        let verdict = compare(&wanted(), &reported("v1", Some("abc")));
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert_eq!(verdict.summary, "it reports version v1, but v2 is wanted");
    }

    #[test]
    fn other_digest_under_same_version_fails() {
        assert_eq!(
            compare(&wanted(), &reported("v2", Some("def"))).conclusion,
            Conclusion::Fail
        );
    }

    #[test]
    fn missing_health_fields_are_named_and_pass() {
        let verdict = compare(&wanted(), &reported("v2", None));
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert_eq!(
            verdict.summary,
            "model name, version as wanted; not compared: digest (not reported)"
        );
        assert_eq!(
            compare(&wanted(), &Health::default()).conclusion,
            Conclusion::Skipped
        );
    }
}

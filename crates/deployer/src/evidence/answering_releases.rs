//! Which releases answered, by the headers `x-model-version` and `x-model-digest` of their answers.

use std::{collections::BTreeMap, fmt};

use crate::{color::Color, evidence::request::Request};

/// More releases are not told apart: a header that differs in every answer names no release.
const MAX_RELEASES: usize = 8;

/// Answers by release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnsweringReleases(BTreeMap<String, Answers>);

/// The answers of one release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    count: u64,
    /// The ID of the first request that it answered.
    first: String,
}

impl AnsweringReleases {
    /// Counts the release that answered this request as `color`, if its answer names one.
    pub(crate) fn count(&mut self, request: &Request, color: Color) {
        if let Some(release) = request.release_of(color) {
            self.add_answers(&release.to_string(), 1, &request.id);
        }
    }

    /// Adds later answers.
    pub fn add(&mut self, later: &Self) {
        for (release, answers) in &later.0 {
            self.add_answers(release, answers.count, &answers.first);
        }
    }

    /// Whether answers name more than one release.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    fn add_answers(&mut self, release: &str, count: u64, first: &str) {
        if let Some(answers) = self.0.get_mut(release) {
            answers.count += count;
        } else if self.0.len() < MAX_RELEASES {
            let first = first.to_owned();
            let answers = Answers { count, first };
            self.0.insert(release.to_owned(), answers);
        }
    }
}

impl fmt::Display for AnsweringReleases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (release, answers)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            let Answers { count, first } = answers;
            let noun = if *count == 1 { "answer" } else { "answers" };
            write!(
                formatter,
                "{separator}{release}: {count} {noun}, first to request {first}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::answered_by;

    fn answered(version: &str, id: &str) -> Request {
        Request {
            id: id.to_owned(),
            version: Some(version.to_owned()),
            ..answered_by(Color::Green, 200)
        }
    }

    #[test]
    fn releases_are_counted_with_first_request() {
        let mut releases = AnsweringReleases::default();
        releases.count(&answered("v1", "a"), Color::Green);
        releases.count(&answered_by(Color::Green, 200), Color::Green);
        assert!(!releases.are_several());
        let mut later = AnsweringReleases::default();
        later.count(&answered("v1", "b"), Color::Green);
        later.count(&answered("v2", "c"), Color::Green);
        releases.add(&later);
        assert!(releases.are_several());
        assert_eq!(
            releases.to_string(),
            "v1: 2 answers, first to request a; v2: 1 answer, first to request c"
        );
    }

    #[test]
    fn releases_without_bound_are_not_kept() {
        let mut releases = AnsweringReleases::default();
        for number in 0..100 {
            releases.count(&answered(&number.to_string(), "a"), Color::Green);
        }
        assert_eq!(releases.0.len(), MAX_RELEASES);
    }
}

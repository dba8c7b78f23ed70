//! One client request, as the router logged it.

use std::{fmt, time::Duration};

use crate::color::Color;

/// What was asked for, without the query.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The method, such as `POST`.
    pub method: String,
    /// The path, such as `/predict`.
    pub path: String,
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)
    }
}

/// How a request ended, as far as the color is concerned that was active when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The color answered with a status below 400, and the router passed the whole answer on.
    Answered,
    /// The color answered with a status from 400 to 499, except 429: it refused what the client sent.
    Refused(u16),
    /// The color answered with 429 or a status from 500 on, did not answer, or was passed over because of an earlier
    /// failure. The standby may have answered in its place.
    Failed,
    /// The color failed, and then the standby itself answered with a status from 500 on. The request may be at fault.
    BothFailed,
    /// The color began an answer and did not end it.
    Cut,
    /// The client disconnected before the color answered anything.
    GaveUp,
    /// The client disconnected while it received the answer.
    Left,
    /// The router answered or closed the request itself, and asked no color.
    ByRouter,
}

impl Ending {
    /// Every [`kind`](Self::kind).
    pub const KINDS: [&'static str; 8] = [
        "answered",
        "refused",
        "failed",
        "both_failed",
        "cut",
        "gave_up",
        "left",
        "by_router",
    ];

    /// The name of the ending in reports, the status, and metrics.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused(_) => "refused",
            Self::Failed => "failed",
            Self::BothFailed => "both_failed",
            Self::Cut => "cut",
            Self::GaveUp => "gave_up",
            Self::Left => "left",
            Self::ByRouter => "by_router",
        }
    }

    /// Whether the color did well; `None` if the ending says nothing about it. A refusal may be the client's fault, so by
    /// itself it counts as good: [`Endings`](super::endings::Endings) tell whether there are more.
    #[must_use]
    pub fn is_good(self, by_deployer: bool) -> Option<bool> {
        match self {
            Self::Answered | Self::Left => Some(true),
            // The deployer sends what the release can answer, and gives up only when its time limit has passed.
            Self::Refused(_) => Some(!by_deployer),
            Self::GaveUp => by_deployer.then_some(false),
            Self::Failed | Self::Cut => Some(false),
            Self::BothFailed | Self::ByRouter => None,
        }
    }
}

/// An attempt of the router to have a request answered by a color.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt {
    /// The color that was asked.
    pub color: Color,
    /// The status. The router itself writes 502 or 504 for a color that did not answer. `None` if the client
    /// disconnected first.
    pub status: Option<u16>,
    /// The time to the head of the answer; `None` if no head arrived.
    pub to_head: Option<Duration>,
    /// The time to the end of the attempt; `None` if the router did not begin it.
    pub to_end: Option<Duration>,
}

impl Attempt {
    /// Whether the color itself answered with a status from 500 on.
    fn was_answered_with_error(&self) -> bool {
        self.to_head.is_some() && self.status.is_some_and(|status| status >= 500)
    }
}

/// A release, as far as an answer names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnsweringRelease<'a> {
    version: Option<&'a str>,
    digest: Option<&'a str>,
}

impl fmt::Display for AnsweringRelease<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough digits of a digest to tell releases apart.
        const DIGITS: usize = 12;

        let digest = self.digest.map(|it| it.get(..DIGITS).unwrap_or(it));
        match (self.version, digest) {
            (Some(version), Some(digest)) => write!(formatter, "{version} (digest {digest})"),
            (Some(version), None) => formatter.write_str(version),
            (None, digest) => write!(formatter, "digest {}", digest.unwrap_or("unknown")),
        }
    }
}

/// One request, as the router logged it when it ended.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "any of them may be true with any other"
)]
pub struct Request {
    /// The request ID. With several routers the router's name follows: "5f3a at r2".
    pub id: String,
    /// When it ended, in seconds since 1970.
    pub at: f64,
    /// Whether this installation's deployer sent it.
    pub by_deployer: bool,
    /// The client's address.
    pub client: String,
    /// What was asked for.
    pub route: Route,
    /// The size of the request with its head, in bytes.
    pub size: u64,
    /// The color that was active when the request arrived; `None` if the router refused the request before it chose.
    pub wanted: Option<Color>,
    /// The attempts in order; none if the router asked no color.
    pub attempts: Vec<Attempt>,
    /// Whether the answer of the last attempt broke off.
    pub cut: bool,
    /// Whether the answer of the last attempt is a stream of server-sent events, whose length says nothing about its
    /// speed.
    pub streamed: bool,
    /// Whether the client disconnected before the end, as far as the router noticed.
    pub disconnected: bool,
    /// The status that the client received.
    pub status: u16,
    /// How long the client waited.
    pub waited: Duration,
    /// The size of the last attempt's answer without its head, in bytes.
    pub answer_size: u64,
    /// The size that the head of the answer promised, in bytes.
    pub promised_size: Option<u64>,
    /// The label in the answer, if the server reports it.
    pub label: Option<String>,
    /// The version of the server that answered, if the answer says it.
    pub version: Option<String>,
    /// The digest of the release that answered, if the answer says it.
    pub digest: Option<String>,
}

impl Request {
    /// How the request ended for `color`; `None` if the color was not active when it arrived.
    #[must_use]
    pub fn ending_for(&self, color: Color) -> Option<Ending> {
        const CLIENT_DISCONNECTED: u16 = 499;
        const TOO_MANY_REQUESTS: u16 = 429;

        if self.wanted != Some(color) {
            return None;
        }
        let [first, others @ ..] = &self.attempts[..] else {
            return Some(Ending::ByRouter);
        };
        let only_attempt = others.is_empty();
        // The router passed the color over, because it failed shortly before.
        if first.color != color {
            return Some(Ending::Failed);
        }
        Some(match first.status {
            // nginx logs the duration of every attempt, also of one that the client ended.
            None if only_attempt && self.status == CLIENT_DISCONNECTED => match first.to_end {
                Some(_) => Ending::GaveUp,
                None => Ending::ByRouter,
            },
            None if only_attempt && (400..500).contains(&self.status) => Ending::ByRouter,
            None | Some(TOO_MANY_REQUESTS | 500..)
                if others
                    .last()
                    .is_some_and(|last| last.color != color && last.was_answered_with_error()) =>
            {
                Ending::BothFailed
            }
            None | Some(TOO_MANY_REQUESTS | 500..) => Ending::Failed,
            Some(_) if !only_attempt => Ending::Failed,
            Some(_) if self.cut => Ending::Cut,
            Some(status @ 400..500) => Ending::Refused(status),
            Some(_)
                if self.status == CLIENT_DISCONNECTED
                    || self.disconnected
                    || self.is_incomplete() =>
            {
                Ending::Left
            }
            Some(_) => Ending::Answered,
        })
    }

    /// The color that was active, and how the request ended for it; `None` if the router refused the request before it
    /// chose a color.
    #[must_use]
    pub fn ending(&self) -> Option<(Color, Ending)> {
        let wanted = self.wanted?;
        Some((wanted, self.ending_for(wanted)?))
    }

    /// The color that was asked last; `None` if none was.
    #[must_use]
    pub fn last_asked(&self) -> Option<Color> {
        Some(self.attempts.last()?.color)
    }

    /// The release that answered as `color`; `None` if another color answered, or the answer names no release.
    #[must_use]
    pub(super) fn release_of(&self, color: Color) -> Option<AnsweringRelease<'_>> {
        let release = AnsweringRelease {
            version: self.version.as_deref(),
            digest: self.digest.as_deref(),
        };
        let is_named = release.version.is_some() || release.digest.is_some();
        (is_named && self.last_asked() == Some(color)).then_some(release)
    }

    /// How long the first attempt took, to the head of the answer if it is a stream; `None` if there was none.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        let first = self.attempts.first()?;
        let head = first.to_head.filter(|_| self.streamed);
        head.or(first.to_end)
    }

    /// How long the client waited for the answer: to its end, or to the head of a stream.
    #[must_use]
    pub fn waited_for_answer(&self) -> Duration {
        let last = self.attempts.last().filter(|_| self.streamed);
        let times = last.and_then(|last| last.to_end.zip(last.to_head));
        let streaming = times.map_or(Duration::ZERO, |(end, head)| end.saturating_sub(head));
        self.waited.saturating_sub(streaming)
    }

    /// When it began, in seconds since 1970.
    #[must_use]
    pub fn began(&self) -> f64 {
        self.at - self.waited.as_secs_f64()
    }

    /// Whether the router received less of the answer than its head promised. If the release did not break it off, the
    /// client did.
    fn is_incomplete(&self) -> bool {
        self.route.method != "HEAD"
            && self.status != 304
            && self
                .promised_size
                .is_some_and(|promised| self.answer_size < promised)
    }

    /// Whether the router passed `color` over although it was active. It may have asked the color after the standby failed.
    pub(super) fn passed_over(&self, color: Color) -> bool {
        let first = self.attempts.first();
        self.wanted == Some(color) && first.is_some_and(|first| first.color != color)
    }

    /// Whether the router tried `color`, and the attempt ended by itself.
    pub(super) fn tried(&self, color: Color) -> bool {
        self.wanted == Some(color)
            && self.attempts.first().is_some_and(|first| {
                first.color == color && (first.status.is_some() || self.attempts.len() > 1)
            })
    }
}

/// The route of predictions.
#[cfg(test)]
pub(crate) fn predict() -> Route {
    Route {
        method: "POST".to_owned(),
        path: "/predict".to_owned(),
    }
}

/// A prediction that this color answered with this status while it was active.
#[cfg(test)]
pub(crate) fn answered_by(color: Color, status: u16) -> Request {
    let took = Duration::from_millis(2);
    Request {
        route: predict(),
        wanted: Some(color),
        status,
        attempts: vec![Attempt {
            color,
            status: Some(status),
            to_head: Some(took),
            to_end: Some(took),
        }],
        waited: Duration::from_millis(3),
        ..Request::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_counts_with_the_time_to_its_head_and_may_be_left() {
        let ms = Duration::from_millis;
        let attempt = Attempt {
            color: Color::Blue,
            status: Some(200),
            to_head: Some(ms(20)),
            to_end: Some(ms(9_000)),
        };
        let stream = Request {
            attempts: vec![attempt],
            waited: ms(9_001),
            streamed: true,
            ..answered_by(Color::Blue, 200)
        };
        assert_eq!(stream.took(), Some(ms(20)));
        assert_eq!(stream.waited_for_answer(), ms(21));
        assert_eq!(stream.ending_for(Color::Blue), Some(Ending::Answered));
        let document = Request {
            streamed: false,
            ..stream.clone()
        };
        assert_eq!(document.took(), Some(ms(9_000)));
        assert_eq!(document.waited_for_answer(), ms(9_001));
        let left = Request {
            disconnected: true,
            ..stream.clone()
        };
        assert_eq!(left.ending_for(Color::Blue), Some(Ending::Left));
        let cut = Request { cut: true, ..left };
        assert_eq!(cut.ending_for(Color::Blue), Some(Ending::Cut));
    }

    const GREEN: Color = Color::Green;

    /// An attempt that the color itself answered.
    fn answer(color: Color, status: u16) -> Attempt {
        Attempt {
            color,
            status: Some(status),
            to_head: Some(Duration::from_millis(1)),
            to_end: Some(Duration::from_millis(2)),
        }
    }

    /// An attempt for which the router wrote this status, because the color did not answer.
    fn no_answer(color: Color, status: Option<u16>) -> Attempt {
        Attempt {
            status,
            to_head: None,
            ..answer(color, 502)
        }
    }

    /// A request while green was active.
    fn request(status: u16, attempts: &[Attempt]) -> Request {
        Request {
            route: predict(),
            wanted: Some(GREEN),
            status,
            attempts: attempts.to_vec(),
            waited: Duration::from_millis(3),
            ..Request::default()
        }
    }

    #[test]
    fn each_request_has_its_ending() {
        let blue = Color::Blue;
        let failed_first = [answer(GREEN, 500), answer(blue, 200)];
        for (status, attempts, expected) in [
            (200, &[answer(GREEN, 200)][..], Ending::Answered),
            (422, &[answer(GREEN, 422)], Ending::Refused(422)),
            (429, &[answer(GREEN, 429)], Ending::Failed),
            (200, &failed_first, Ending::Failed),
            // Passed over.
            (200, &[answer(blue, 200)], Ending::Failed),
            (502, &[no_answer(GREEN, Some(502))], Ending::Failed),
            (
                500,
                &[answer(GREEN, 500), answer(blue, 500)],
                Ending::BothFailed,
            ),
            (
                500,
                &[no_answer(GREEN, Some(502)), answer(blue, 503)],
                Ending::BothFailed,
            ),
            // A standby that refuses connections exonerates nobody.
            (
                502,
                &[answer(GREEN, 500), no_answer(blue, Some(502))],
                Ending::Failed,
            ),
            (499, &[no_answer(GREEN, None)], Ending::GaveUp),
            (499, &[answer(GREEN, 200)], Ending::Left),
            // The client saw the failure and then left.
            (
                499,
                &[no_answer(GREEN, Some(502)), no_answer(blue, None)],
                Ending::Failed,
            ),
            // The router's own answers.
            (413, &[], Ending::ByRouter),
            (500, &[], Ending::ByRouter),
        ] {
            let ending = request(status, attempts).ending_for(GREEN);
            assert_eq!(ending, Some(expected), "{status} {attempts:?}");
            assert!(Ending::KINDS.contains(&expected.kind()), "{expected:?}");
        }
    }

    #[test]
    fn inactive_color_has_no_ending() {
        let answered = request(200, &[answer(GREEN, 200)]);
        assert_eq!(answered.ending_for(Color::Blue), None);
        let refused_by_router = Request {
            wanted: None,
            ..request(400, &[])
        };
        assert_eq!(refused_by_router.ending_for(GREEN), None);
    }

    #[test]
    fn answer_that_breaks_off_is_cut_and_short_one_was_left() {
        let short = Request {
            answer_size: 6,
            promised_size: Some(100),
            ..request(200, &[answer(GREEN, 200)])
        };
        assert_eq!(short.ending_for(GREEN), Some(Ending::Left));
        let cut = Request {
            cut: true,
            ..short.clone()
        };
        assert_eq!(cut.ending_for(GREEN), Some(Ending::Cut));
        let mut head = short;
        head.route.method = "HEAD".to_owned();
        assert_eq!(head.ending_for(GREEN), Some(Ending::Answered));
    }

    #[test]
    fn endings_count_for_clients_and_for_own_requests() {
        for (ending, of_client, own) in [
            (Ending::Answered, Some(true), Some(true)),
            (Ending::Left, Some(true), Some(true)),
            (Ending::Refused(422), Some(true), Some(false)),
            (Ending::GaveUp, None, Some(false)),
            (Ending::Failed, Some(false), Some(false)),
            (Ending::Cut, Some(false), Some(false)),
            (Ending::BothFailed, None, None),
            (Ending::ByRouter, None, None),
        ] {
            assert_eq!(ending.is_good(false), of_client, "{ending:?}");
            assert_eq!(ending.is_good(true), own, "{ending:?}");
        }
    }
}

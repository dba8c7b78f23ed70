//! Whether a server that is not healthy yet makes progress. Pure.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::ports::Activity;

/// A smaller growth of memory, or of what was read from disks, is no progress: a waiting server grows a little too.
const LEAST_GROWTH: u64 = 1 << 20;
/// How many texts are remembered. After this many, a new text is no progress.
const MAX_TEXTS: usize = 10_000;
/// How many characters of a text count.
const MAX_CHARACTERS: usize = 2_000;

/// What showed that a server makes progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It logged something new.
    Logged,
    /// Its health check is answered differently.
    Answered,
    /// It has read this many bytes from disks.
    Read(u64),
    /// It uses this many bytes of memory.
    Grew(u64),
}

impl fmt::Display for Sign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: &u64| bytes / 1_000_000;
        match self {
            Self::Logged => formatter.write_str("it logged something new"),
            Self::Answered => formatter.write_str("its health check is answered differently"),
            Self::Read(bytes) => write!(formatter, "it has read {} MB", megabytes(bytes)),
            Self::Grew(bytes) => write!(formatter, "its memory is {} MB", megabytes(bytes)),
        }
    }
}

/// What was seen of a server since its start.
///
/// A text is progress if its words are new, or if a share in it (`40%`, `3/10`, `3 of 10`) is greater than before. Other
/// digits do not count: a server that waits for something logs times, ports, and numbers of attempts for ever.
#[derive(Debug, Default)]
pub(super) struct Loading {
    /// The greatest shares of each text, by a hash of its words.
    lines: HashMap<u64, Vec<f64>>,
    answers: HashMap<u64, Vec<f64>>,
    read: Option<u64>,
    memory: Option<u64>,
    /// At the first observation.
    restarts: Option<u64>,
    restarted: u64,
}

impl Loading {
    /// Adds an observation. `answer` says why the last health check failed. Returns what shows progress since the observation
    /// before.
    pub(super) fn observe(&mut self, activity: &Activity, answer: &str) -> Option<Sign> {
        let Activity {
            log,
            disk_read,
            memory,
            restarts,
        } = activity;
        if let Some(restarts) = *restarts {
            let before = *self.restarts.get_or_insert(restarts);
            self.restarted = restarts.saturating_sub(before);
        }
        let mut sign = None;
        // Each one is remembered, also after the first sign.
        if is_new(&mut self.answers, answer, Numbers::Decimal) {
            sign = Some(Sign::Answered);
        }
        for line in log.iter().flat_map(|line| line.split('\r')) {
            if is_new(&mut self.lines, line, Numbers::Shares) {
                sign = Some(Sign::Logged);
            }
        }
        let grown = [
            disk_read
                .filter(|now| has_grown(&mut self.read, *now))
                .map(Sign::Read),
            memory
                .filter(|now| has_grown(&mut self.memory, *now))
                .map(Sign::Grew),
        ];
        let sign = grown.into_iter().flatten().last().or(sign);
        // A server that ends while it loads begins again each time.
        sign.filter(|_| self.restarted == 0)
    }

    /// How often the server was started again since the first observation.
    pub(super) fn restarted(&self) -> u64 {
        self.restarted
    }
}

/// Whether a value has grown noticeably since it last did. The first value only becomes the one to compare with.
fn has_grown(before: &mut Option<u64>, now: u64) -> bool {
    match before {
        None => {
            *before = Some(now);
            false
        }
        Some(value) if now >= value.saturating_add(LEAST_GROWTH) => {
            *value = now;
            true
        }
        Some(_) => false,
    }
}

/// Which numbers of a text count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Shares only.
    Shares,
    /// Decimal fractions from 0 to 1 too, as in `{"progress": 0.4}`.
    Decimal,
}

/// Whether a text shows something new, and remembers it.
fn is_new(seen: &mut HashMap<u64, Vec<f64>>, text: &str, numbers: Numbers) -> bool {
    let text: String = text.chars().take(MAX_CHARACTERS).collect();
    let Some(words) = words(&text) else {
        return false;
    };
    let shares = shares(&text, numbers);
    let is_full = seen.len() >= MAX_TEXTS;
    match seen.entry(words) {
        Entry::Vacant(entry) => {
            if !is_full {
                entry.insert(shares);
            }
            !is_full
        }
        Entry::Occupied(mut entry) => {
            let most = entry.get_mut();
            let mut grown = false;
            for (place, share) in shares.into_iter().enumerate() {
                match most.get_mut(place) {
                    Some(most) if share > *most + 1e-9 => {
                        *most = share;
                        grown = true;
                    }
                    Some(_) => {}
                    None => most.push(share),
                }
            }
            grown
        }
    }
}

/// A hash of the words of a text; `None` if it has none. A word with a digit, such as a time or an ID, is left out.
fn words(text: &str) -> Option<u64> {
    let is_of_word = |character: char| character.is_alphanumeric() || "-_".contains(character);
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    let words = text
        .split(|character| !is_of_word(character))
        .filter(|word| word.contains(char::is_alphabetic) && !word.contains(char::is_numeric));
    for word in words {
        word.hash(&mut hasher);
        any = true;
    }
    // "40%" alone is a text too.
    (any || text.contains('%')).then(|| hasher.finish())
}

/// The shares that a text states, from 0 to 1.
fn shares(text: &str, numbers: Numbers) -> Vec<f64> {
    let tokens: Vec<&str> = text
        .split(|character: char| !(character.is_alphanumeric() || "%/.".contains(character)))
        .filter(|token| !token.is_empty())
        .collect();
    let mut shares = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let token = token.trim_end_matches('.');
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| *number >= 0.0);
        let of = |part: f64, whole: f64| (whole > 0.0 && part <= whole).then(|| part / whole);
        let share = if let Some(percent) = token.strip_suffix('%') {
            number(percent).and_then(|percent| of(percent, 100.0))
        } else if let Some((part, whole)) = token.split_once('/') {
            number(part)
                .zip(number(whole))
                .and_then(|(part, whole)| of(part, whole))
        } else if tokens.get(place + 1) == Some(&"of") {
            let whole = tokens.get(place + 2).and_then(|whole| number(whole));
            number(token)
                .zip(whole)
                .and_then(|(part, whole)| of(part, whole))
        } else if numbers == Numbers::Decimal && token.contains('.') {
            number(token).and_then(|fraction| of(fraction, 1.0))
        } else {
            None
        };
        shares.extend(share);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(loading: &mut Loading, line: &str) -> Option<Sign> {
        let activity = Activity {
            log: vec![line.to_owned()],
            ..Activity::default()
        };
        loading.observe(&activity, "")
    }

    fn answered(loading: &mut Loading, answer: &str) -> Option<Sign> {
        loading.observe(&Activity::default(), answer)
    }

    #[test]
    fn line_with_new_words_is_progress_once() {
        let mut loading = Loading::default();
        assert_eq!(
            logged(&mut loading, "loading the tokenizer"),
            Some(Sign::Logged)
        );
        assert_eq!(logged(&mut loading, "loading the tokenizer"), None);
        assert_eq!(
            logged(&mut loading, "loading the weights"),
            Some(Sign::Logged)
        );
        assert_eq!(logged(&mut loading, "loading the tokenizer"), None);
        assert_eq!(logged(&mut loading, ""), None);
    }

    #[test]
    fn lines_that_differ_by_times_numbers_or_ids_are_no_progress() {
        for (first, second) in [
            (
                "2026-11-27 12:00:01,017 waiting for a GPU",
                "2026-11-27 12:00:04,019 waiting for a GPU",
            ),
            (
                "INFO 11-27 12:00:01 [loader.py:42] retry 17",
                "INFO 11-28 00:00:01 [loader.py:42] retry 18",
            ),
            (
                r#"INFO: 127.0.0.1:50112 - "GET /health HTTP/1.1" 503 Service Unavailable"#,
                r#"INFO: 127.0.0.1:50114 - "GET /health HTTP/1.1" 503 Service Unavailable"#,
            ),
            (
                "[1234] [INFO] Booting worker with pid: 1234",
                "[1236] [INFO] Booting worker with pid: 1236",
            ),
            (
                r#"{"ts":1732731234.5,"id":"4bf92f35-77b3-4da6-a3ce-929d0e0e4736","m":"waits"}"#,
                r#"{"ts":1732731237.5,"id":"00f067aa-0ba9-02b7-a3ce-929d0e0e4737","m":"waits"}"#,
            ),
        ] {
            let mut loading = Loading::default();
            assert_eq!(logged(&mut loading, first), Some(Sign::Logged), "{first}");
            assert_eq!(logged(&mut loading, second), None, "{second}");
        }
    }

    #[test]
    fn greater_share_is_progress_and_a_smaller_one_is_not() {
        for lines in [
            [
                "Loading shards:  20% Completed | 1/5 [00:05<00:20]",
                "Loading shards:  40% Completed | 2/5 [00:10<00:15]",
            ],
            ["layer 3 of 40 is loaded", "layer 4 of 40 is loaded"],
            ["\r 10%|█         |", "\r 11%|█         |"],
        ] {
            let mut loading = Loading::default();
            for line in lines {
                assert_eq!(logged(&mut loading, line), Some(Sign::Logged), "{line}");
            }
            for line in lines {
                assert_eq!(logged(&mut loading, line), None, "{line}");
            }
        }
    }

    #[test]
    fn carriage_returns_separate_lines() {
        let mut loading = Loading::default();
        assert_eq!(
            logged(&mut loading, "reading  1%\rreading  2%"),
            Some(Sign::Logged)
        );
        assert_eq!(logged(&mut loading, "reading  1%\rreading  2%"), None);
        assert_eq!(
            logged(&mut loading, "reading  1%\rreading  2%\rreading  3%"),
            Some(Sign::Logged)
        );
    }

    #[test]
    fn changed_answer_is_progress_and_changed_digits_in_it_are_not() {
        let mut loading = Loading::default();
        let llama = r#"GET http://127.0.0.1:8082/health answered 503: {"error":{"code":503,"message":"Loading model"}}"#;
        assert_eq!(
            answered(&mut loading, "connection refused"),
            Some(Sign::Answered)
        );
        assert_eq!(answered(&mut loading, llama), Some(Sign::Answered));
        assert_eq!(answered(&mut loading, llama), None);
        let state = |progress, uptime| {
            format!(r#"{{"state":"loading","progress":{progress},"uptime":{uptime}}}"#)
        };
        assert_eq!(answered(&mut loading, &state(0.2, 3)), Some(Sign::Answered));
        assert_eq!(answered(&mut loading, &state(0.2, 4)), None);
        assert_eq!(answered(&mut loading, &state(0.3, 5)), Some(Sign::Answered));
    }

    #[test]
    fn growth_is_progress_from_one_mebibyte_on() {
        let mut loading = Loading::default();
        let mut observe = |memory: u64, read: u64| {
            let activity = Activity {
                memory: Some(memory << 10),
                disk_read: Some(read << 10),
                ..Activity::default()
            };
            loading.observe(&activity, "")
        };
        assert_eq!(observe(50_000, 0), None, "there is nothing to compare with");
        assert_eq!(observe(50_900, 0), None);
        assert_eq!(observe(51_100, 0), Some(Sign::Grew(51_100 << 10)));
        // What was freed and used again is no growth.
        assert_eq!(observe(10_000, 0), None);
        assert_eq!(observe(51_100, 0), None);
        assert_eq!(observe(51_100, 2_000), Some(Sign::Read(2_000 << 10)));
        assert_eq!(observe(51_100, 2_000), None);
    }

    #[test]
    fn nothing_is_progress_after_a_restart() {
        let mut loading = Loading::default();
        let mut observe = |line: &str, restarts| {
            let activity = Activity {
                log: vec![line.to_owned()],
                restarts: Some(restarts),
                ..Activity::default()
            };
            let sign = loading.observe(&activity, "");
            (sign, loading.restarted())
        };
        // It may have been restarted before this deployment.
        assert_eq!(observe("begins", 2), (Some(Sign::Logged), 0));
        assert_eq!(observe("loads", 2), (Some(Sign::Logged), 0));
        assert_eq!(observe("fails", 3), (None, 1));
        assert_eq!(observe("fails again", 5), (None, 3));
    }

    #[test]
    fn endless_new_texts_are_no_progress_for_ever() {
        let mut loading = Loading::default();
        let word = |number: usize| -> String {
            let digits = number.to_string();
            digits
                .bytes()
                .map(|digit| char::from(digit - b'0' + b'a'))
                .collect()
        };
        for number in 0..MAX_TEXTS {
            assert_eq!(logged(&mut loading, &word(number)), Some(Sign::Logged));
        }
        assert_eq!(logged(&mut loading, &word(MAX_TEXTS)), None);
    }
}

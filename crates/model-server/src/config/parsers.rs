use std::{
    num::{NonZeroUsize, ParseIntError},
    path::PathBuf,
    time::Duration,
};

use clap::builder::{OsStringValueParser, TypedValueParser};

/// A day; a longer time is a mistake.
const LONGEST: Duration = Duration::from_hours(24);

pub(crate) fn positive(text: &str) -> Result<usize, ParseIntError> {
    text.parse().map(NonZeroUsize::get)
}

/// Accepts an empty path, unlike clap's own parser: Compose passes an unset variable as an empty one.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "expected seconds from 0 to 86400, such as 5 or 0.5".to_owned())
}

/// The server must answer before the router's timeout of 120 s, or the client gets no reason.
pub(crate) fn request_timeout(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|it| (Duration::from_millis(10)..=Duration::from_secs(100)).contains(it))
        .ok_or_else(|| {
            "expected seconds from 0.01 to 100 (the router gives up after 120)".to_owned()
        })
}

pub(crate) fn idle_timeout(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|it| *it >= Duration::from_secs(1))
        .ok_or_else(|| "expected seconds from 1 to 86400, such as 75".to_owned())
}

/// Compose passes an unset variable as an empty one.
pub(crate) fn otlp_endpoint(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        otlp::check_endpoint(text).map_err(|problem| {
            format!("{problem}; expected a URL such as http://localhost:4318")
        })?;
    }
    Ok(text.to_owned())
}

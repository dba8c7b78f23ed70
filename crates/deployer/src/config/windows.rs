//! When deployments may switch.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, Time, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Deserializer, de::Error as _};

/// When deployments may switch. Without a window they may at any time, except during a freeze.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowsSettings {
    /// The time zone of all dates and hours.
    #[serde(deserialize_with = "zone")]
    pub zone: TimeZone,
    /// The windows; empty for no restriction.
    pub open: Vec<Window>,
    /// When no deployment switches, even if a window is open.
    pub freezes: Vec<Freeze>,
    /// Why a person deploys outside of the windows (`--outside-window --reason`); `None` to obey them.
    #[serde(skip)]
    pub overridden: Option<String>,
}

/// Reads a time zone.
fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeZone, D::Error> {
    let name = String::deserialize(deserializer)?;
    TimeZone::get(&name).map_err(|_| {
        D::Error::custom(format!(
            "unknown time zone {name:?}; expected a name of the IANA database, such as Europe/Zurich or UTC"
        ))
    })
}

/// One window: on these days, from one hour to another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Window {
    days: Days,
    from: Time,
    /// On the same day if it is later than `from`, and on the next day otherwise.
    to: Time,
    text: String,
}

/// The days on which a window begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Days {
    Weekdays(Vec<Weekday>),
    Date(Date),
}

impl Window {
    /// The date of a window that opens only once.
    pub(crate) fn single_date(&self) -> Option<Date> {
        match self.days {
            Days::Date(date) => Some(date),
            Days::Weekdays(_) => None,
        }
    }

    /// When the window that begins on `date` opens and closes; `None` if none begins on it.
    pub(crate) fn on(&self, date: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let begins = match &self.days {
            Days::Weekdays(weekdays) => weekdays.contains(&date.weekday()),
            Days::Date(only) => *only == date,
        };
        if !begins {
            return None;
        }
        let end_date = if self.to > self.from {
            date
        } else {
            date.tomorrow().ok()?
        };
        Some((
            instant(date.to_datetime(self.from), zone)?,
            instant(end_date.to_datetime(self.to), zone)?,
        ))
    }
}

/// The instant of a local time. A time that a change of the clocks skips is moved behind the gap, and of two equal times
/// the first one counts.
fn instant(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(local).compatible().ok()
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            format!(
                "{text:?} is not a window: {problem}; expected days and hours, such as \"mon-thu 09:00-16:00\", \"sat,sun 22:00-02:00\", or \"2026-12-24 10:00-12:00\""
            )
        };
        let (days, hours) = text
            .trim()
            .split_once(' ')
            .ok_or_else(|| wrong("the hours are missing"))?;
        let (from, to) = hours
            .trim()
            .split_once('-')
            .ok_or_else(|| wrong("the hours have no end"))?;
        let from = time(from)
            .ok_or_else(|| wrong(&format!("the start {from:?} is not a time (HH:MM)")))?;
        // The end of a day is the beginning of the next one.
        let to = if to.trim() == "24:00" {
            Time::midnight()
        } else {
            time(to).filter(|to| *to != from).ok_or_else(|| {
                wrong(&format!(
                    "the end {to:?} is not a time (HH:MM), or equals the start; a whole day is 00:00-24:00"
                ))
            })?
        };
        let days = match days.parse() {
            Ok(date) => Days::Date(date),
            Err(_) => Days::Weekdays(weekdays(days).map_err(|problem| wrong(&problem))?),
        };
        Ok(Self {
            days,
            from,
            to,
            text: text.trim().to_owned(),
        })
    }
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// Reads weekdays such as `mon-thu` or `fri-mon,wed`.
fn weekdays(text: &str) -> Result<Vec<Weekday>, String> {
    let mut weekdays = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (weekday(first)?, weekday(last)?);
        let days = first.cycle_forward().take(7);
        let count = days.clone().position(|day| day == last).unwrap_or(0) + 1;
        weekdays.extend(days.take(count));
    }
    Ok(weekdays)
}

fn weekday(text: &str) -> Result<Weekday, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "mon" => Weekday::Monday,
        "tue" => Weekday::Tuesday,
        "wed" => Weekday::Wednesday,
        "thu" => Weekday::Thursday,
        "fri" => Weekday::Friday,
        "sat" => Weekday::Saturday,
        "sun" => Weekday::Sunday,
        _ => {
            return Err(format!(
                "{text:?} is neither a weekday (mon, tue, …) nor a date"
            ));
        }
    })
}

/// A time without switches.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Freeze {
    from: DateTime,
    /// The first moment after it.
    to: DateTime,
    text: String,
}

impl Freeze {
    /// When it begins and ends.
    pub(crate) fn instants(&self, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        Some((instant(self.from, zone)?, instant(self.to, zone)?))
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |problem: &str| {
            format!(
                "{text:?} is not a freeze: {problem}; expected dates, such as \"2026-12-20..2027-01-06\" (both included), \"2026-12-24\", or \"2026-12-24 18:00..2026-12-27 08:00\""
            )
        };
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let (first, last) = (first.trim(), last.trim());
        let from = moment(first).ok_or_else(|| wrong(&format!("{first:?} is not a date")))?;
        let to = moment(last).ok_or_else(|| wrong(&format!("{last:?} is not a date")))?;
        let to = match to {
            Moment::Day(date) => date.to_datetime(Time::midnight()).checked_add(1.day()),
            Moment::Minute(time) => Ok(time),
        };
        let to = to.map_err(|error| wrong(&error.to_string()))?;
        let from = match from {
            Moment::Day(date) => date.to_datetime(Time::midnight()),
            Moment::Minute(time) => time,
        };
        if to <= from {
            return Err(wrong("it ends before it begins"));
        }
        Ok(Self {
            from,
            to,
            text: text.trim().to_owned(),
        })
    }
}

enum Moment {
    Day(Date),
    Minute(DateTime),
}

fn moment(text: &str) -> Option<Moment> {
    match text.split_once(' ') {
        None => text.parse().ok().map(Moment::Day),
        Some((date, hour)) => {
            let date: Date = date.parse().ok()?;
            Some(Moment::Minute(date.to_datetime(time(hour)?)))
        }
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Freeze {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn weekdays_may_be_lists_and_wrap_around() {
        use Weekday::{Friday, Monday, Saturday, Sunday, Wednesday};
        assert_eq!(
            weekdays("fri-mon,wed").unwrap(),
            [Friday, Saturday, Sunday, Monday, Wednesday]
        );
        assert_eq!(weekdays("mon-sun").unwrap().len(), 7);
        assert_eq!(weekdays("Sun").unwrap(), [Sunday]);
    }

    #[test]
    fn invalid_windows_say_what_is_wrong() {
        for (text, problem) in [
            ("mon-fri", "the hours are missing"),
            ("mon 09:00", "the hours have no end"),
            ("mon 9:00-16:00", "the start \"9:00\" is not a time (HH:MM)"),
            ("mon 09:00-25:00", "the end \"25:00\" is not a time (HH:MM)"),
            ("mon 09:00-09:00", "a whole day is 00:00-24:00"),
            ("monday 09:00-16:00", "\"monday\" is neither a weekday"),
            ("2026-02-30 09:00-16:00", "neither a weekday"),
        ] {
            let error = text.parse::<Window>().unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn invalid_freezes_say_what_is_wrong() {
        for (text, problem) in [
            ("christmas", "\"christmas\" is not a date"),
            ("2026-12-24..", "\"\" is not a date"),
            ("2026-12-24..2026-12-20", "it ends before it begins"),
            ("2026-12-24 18:00", "it ends before it begins"),
        ] {
            let error = text.parse::<Freeze>().unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_time_zone_is_named_with_advice() {
        let error = load(None, &["windows.zone=Europe/Zürich".to_owned()]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("unknown time zone \"Europe/Zürich\""),
            "{error}"
        );
        assert!(error.contains("such as Europe/Zurich"), "{error}");
        load(None, &["windows.zone=Asia/Kathmandu".to_owned()]).unwrap();
    }
}

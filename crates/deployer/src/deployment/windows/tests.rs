use jiff::{civil::DateTime, tz::TimeZone};
use proptest::prelude::*;

use super::*;

fn windows(zone: &str, open: &[&str], freezes: &[&str]) -> WindowsSettings {
    WindowsSettings {
        zone: TimeZone::get(zone).unwrap(),
        open: open.iter().map(|text| text.parse().unwrap()).collect(),
        freezes: freezes.iter().map(|text| text.parse().unwrap()).collect(),
        overridden: None,
    }
}

fn at(windows: &WindowsSettings, local: &str) -> Timestamp {
    let local: DateTime = local.parse().unwrap();
    local.to_zoned(windows.zone.clone()).unwrap().timestamp()
}

fn is_open(windows: &WindowsSettings, local: &str) -> bool {
    super::is_open(windows, at(windows, local))
}

fn next(windows: &WindowsSettings, local: &str) -> Option<Timestamp> {
    match opening(windows, at(windows, local)) {
        Opening::Open => panic!("open at {local}"),
        Opening::Closed { next, .. } => next,
    }
}

#[test]
fn deployments_may_always_switch_without_settings() {
    let settings = crate::config::load(None, &[]).unwrap();
    assert_eq!(opening(&settings.windows, Timestamp::now()), Opening::Open);
    assert_eq!(check(&settings.windows, Timestamp::UNIX_EPOCH), Ok(()));
}

#[test]
fn window_is_open_on_its_weekdays_and_hours() {
    // 2026-11-27 is a Friday.
    let windows = windows("Europe/Zurich", &["mon-thu 09:00-16:00"], &[]);
    assert!(is_open(&windows, "2026-11-26T09:00"));
    assert!(is_open(&windows, "2026-11-26T15:59:59"));
    for closed in [
        "2026-11-26T08:59:59",
        "2026-11-26T16:00",
        "2026-11-27T10:00",
    ] {
        assert!(!is_open(&windows, closed), "{closed}");
    }
    let monday = at(&windows, "2026-11-30T09:00");
    assert_eq!(next(&windows, "2026-11-26T16:00"), Some(monday));
    let error = check(&windows, at(&windows, "2026-11-28T09:00")).unwrap_err();
    assert!(
        error.contains(
            "no window for deployments is open: the next one opens Mon 2026-11-30 09:00 CET, in 2d"
        ),
        "{error}"
    );
    assert!(error.contains("--outside-window --reason"), "{error}");
}

#[test]
fn window_that_crosses_midnight_belongs_to_the_day_it_begins() {
    let windows = windows("UTC", &["sat 22:00-02:00"], &[]);
    assert!(is_open(&windows, "2026-11-28T22:00"));
    assert!(is_open(&windows, "2026-11-29T01:59"));
    assert!(!is_open(&windows, "2026-11-29T02:00"));
    assert!(!is_open(&windows, "2026-11-28T01:00"));
    let whole = windows_of_whole_days();
    assert!(is_open(&whole, "2026-11-28T23:59:59"));
    assert!(!is_open(&whole, "2026-11-29T00:00"));
}

fn windows_of_whole_days() -> WindowsSettings {
    windows("UTC", &["sat 00:00-24:00"], &[])
}

#[test]
fn freeze_closes_windows_and_days_are_included() {
    let windows = windows(
        "UTC",
        &["mon-sun 09:00-16:00"],
        &[
            "2026-12-20..2027-01-06",
            "2027-01-07 08:00..2027-01-07 10:30",
        ],
    );
    assert!(is_open(&windows, "2026-12-19T10:00"));
    assert!(!is_open(&windows, "2026-12-20T10:00"));
    assert!(!is_open(&windows, "2027-01-06T15:59"));
    let thaw = at(&windows, "2027-01-07T10:30");
    assert_eq!(next(&windows, "2026-12-24T10:00"), Some(thaw));
    assert_eq!(next(&windows, "2026-12-19T17:00"), Some(thaw));
    let error = check(&windows, at(&windows, "2026-12-24T10:00")).unwrap_err();
    assert!(
        error.starts_with("the freeze 2026-12-20..2027-01-06 holds"),
        "{error}"
    );
}

#[test]
fn next_opening_is_the_end_of_a_freeze() {
    let windows = windows("UTC", &[], &["2026-12-24", "2026-12-25..2026-12-26"]);
    assert!(is_open(&windows, "2026-12-23T23:59"));
    let thaw = at(&windows, "2026-12-27T00:00");
    assert_eq!(next(&windows, "2026-12-24T10:00"), Some(thaw));
}

#[test]
fn single_date_opens_once() {
    let windows = windows("UTC", &["2028-05-01 10:00-12:00"], &[]);
    let opens = at(&windows, "2028-05-01T10:00");
    assert_eq!(next(&windows, "2026-11-27T10:00"), Some(opens));
    assert!(is_open(&windows, "2028-05-01T11:00"));
    assert_eq!(next(&windows, "2028-05-01T12:00"), None);
    let error = check(&windows, at(&windows, "2028-05-02T12:00")).unwrap_err();
    assert!(error.contains("none opens again"), "{error}");
}

#[test]
fn window_in_a_skipped_hour_is_empty_and_repeated_hour_counts_once() {
    // In Zurich, 02:00 to 03:00 does not exist on 2026-03-29, and happens twice on 2026-10-25.
    let night = windows("Europe/Zurich", &["sun 02:00-03:00"], &[]);
    let spring = at(&night, "2026-03-29T03:00");
    for second in [-1, 0, 1] {
        let at = spring + SignedDuration::from_secs(second);
        assert_ne!(opening(&night, at), Opening::Open, "{second}");
    }
    let autumn: Timestamp = "2026-10-25T00:00:00Z".parse().unwrap();
    let minutes = |count| opening(&night, autumn + SignedDuration::from_mins(count));
    assert_eq!(minutes(0), Opening::Open);
    // The window ends at 03:00, which is two hours later.
    assert_eq!(minutes(119), Opening::Open);
    assert_ne!(minutes(120), Opening::Open);
    let half = windows("Europe/Zurich", &["sun 02:00-02:30"], &[]);
    let minutes = |count| opening(&half, autumn + SignedDuration::from_mins(count));
    assert_eq!(minutes(29), Opening::Open);
    assert_ne!(minutes(30), Opening::Open);
    assert_ne!(minutes(60), Opening::Open, "02:00 for the second time");
}

fn any_windows() -> impl Strategy<Value = WindowsSettings> {
    let zones = [
        "UTC",
        "Europe/Zurich",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    ];
    let days = [
        "mon",
        "tue-thu",
        "fri-mon",
        "sun",
        "sat,wed",
        "2026-10-25",
        "2026-03-29",
    ];
    let window =
        (prop::sample::select(days.to_vec()), 0..24, 1..24).prop_map(|(days, from, length)| {
            format!("{days} {from:02}:00-{:02}:30", (from + length) % 24)
        });
    let freeze = (1..28_i8, 1..12_i8, 0..40_i64).prop_map(|(day, month, length)| {
        let from = jiff::civil::date(2026, month, day);
        format!("{from}..{}", from + length.days())
    });
    (
        prop::sample::select(zones.to_vec()),
        prop::collection::vec(window, 0..3),
        prop::collection::vec(freeze, 0..3),
    )
        .prop_map(|(zone, open, freezes)| {
            let open: Vec<&str> = open.iter().map(String::as_str).collect();
            let freezes: Vec<&str> = freezes.iter().map(String::as_str).collect();
            windows(zone, &open, &freezes)
        })
}

fn any_time_of_2026() -> impl Strategy<Value = Timestamp> {
    (1_767_225_600_i64..1_798_761_600).prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    // Each case looks at thousands of moments.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn next_opening_is_open_and_nothing_opens_before_it(windows in any_windows(), now in any_time_of_2026()) {
        let Opening::Closed { next, .. } = opening(&windows, now) else {
            return Ok(());
        };
        if let Some(next) = next {
            prop_assert!(next > now);
            prop_assert!(super::is_open(&windows, next));
        }
        // Every boundary of these windows is on a half hour.
        let until = now + SignedDuration::from_hours(24 * 20);
        let until = next.map_or(until, |next| until.min(next));
        let mut at = now;
        while at < until {
            prop_assert!(!super::is_open(&windows, at), "{} before {:?}", at, next);
            at += SignedDuration::from_mins(15);
        }
    }

    #[test]
    fn freeze_only_closes(windows in any_windows(), now in any_time_of_2026()) {
        let unfrozen = WindowsSettings { freezes: Vec::new(), ..windows.clone() };
        if opening(&windows, now) == Opening::Open {
            prop_assert_eq!(opening(&unfrozen, now), Opening::Open);
        } else if let Opening::Closed { freeze: None, .. } = opening(&windows, now) {
            prop_assert_ne!(opening(&unfrozen, now), Opening::Open);
        }
    }

    #[test]
    fn window_membership_follows_the_local_clock(windows in any_windows(), now in any_time_of_2026()) {
        // Away from changes of the clocks, an instant is in a window if its local time is.
        let local = now.to_zoned(windows.zone.clone());
        let steady = [-26, 26].iter().all(|hours| {
            (now + SignedDuration::from_hours(*hours)).to_zoned(windows.zone.clone()).offset() == local.offset()
        });
        prop_assume!(steady && windows.freezes.is_empty() && !windows.open.is_empty());
        let fake = WindowsSettings { zone: local.offset().to_time_zone(), ..windows.clone() };
        prop_assert_eq!(opening(&windows, now) == Opening::Open, opening(&fake, now) == Opening::Open);
    }
}

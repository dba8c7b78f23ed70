//! Counts requests that hang: they have begun and not ended, so the access log does not show them. Pure.
//!
//! A reading says how many requests were in flight at a time. The log shows which of them have ended since. A request
//! of the reading that has not ended has been in flight since before the reading.

use std::{collections::VecDeque, time::Duration};

use super::Bake;

/// How long after its end a request may be missing from the log: nginx's buffer and the reader's hold-back.
const LOG_LAG: Duration = Duration::from_secs(3);

/// How many readings must agree. Short requests of the deployer and the monitor are in one reading, rarely in all.
const READINGS: usize = 3;

/// Readings of the requests in flight, and how many of each have ended. All times are Unix seconds.
///
/// A request that hangs is in each reading since it began, and in no line of the log. So no reading shows fewer
/// requests without an end than hang, and the smallest number is the best one. Requests that began before the first
/// reading are not counted: another release may have them. So a short request in the first reading that is in no log
/// hides one request that hangs.
#[derive(Debug)]
pub(super) struct Hanging {
    allowed: Duration,
    first: Option<Reading>,
    readings: VecDeque<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: f64,
    in_flight: u64,
    /// How many of them have ended, by the log.
    ended: u64,
}

impl Reading {
    fn without_end(&self) -> u64 {
        self.in_flight.saturating_sub(self.ended)
    }

    fn count(&mut self, began: f64, ended: f64) {
        if began < self.at && self.at < ended {
            self.ended += 1;
        }
    }
}

impl Hanging {
    /// Counts requests that are in flight for longer than `allowed`.
    #[must_use]
    pub(super) fn new(allowed: Duration) -> Self {
        Self {
            allowed,
            first: None,
            readings: VecDeque::new(),
        }
    }

    /// Records how many requests were in flight at this time. Skip a reading that failed.
    ///
    /// Call this before `record_ended` for the part of the log that was read after this time.
    pub(super) fn record_reading(&mut self, at: f64, in_flight: u64) {
        let reading = Reading {
            at,
            in_flight,
            ended: 0,
        };
        self.first.get_or_insert(reading);
        self.readings.push_back(reading);
        // Only the last readings that are old enough are needed.
        let latest_old = self.readings.get(READINGS);
        if latest_old.is_some_and(|reading| self.is_old(reading, at)) {
            self.readings.pop_front();
        }
    }

    /// Records a request of the log, of any color and any client.
    pub(super) fn record_ended(&mut self, began: f64, ended: f64) {
        for reading in self.first.iter_mut().chain(&mut self.readings) {
            reading.count(began, ended);
        }
    }

    /// Returns how many requests have been in flight for longer than allowed; `None` if too few readings are old
    /// enough. `read_at` is when the log was last read without an error, after the last reading.
    pub(super) fn count(&self, read_at: f64) -> Option<u64> {
        let mut old: Vec<&Reading> = self
            .readings
            .iter()
            .rev()
            .skip_while(|reading| !self.is_old(reading, read_at))
            .take(READINGS)
            .collect();
        if old.len() < READINGS {
            return None;
        }
        // A router that restarted has dropped its requests without a line in the log.
        old.extend(self.readings.back());
        let least = old.into_iter().map(Reading::without_end).min()?;
        Some(least.saturating_sub(self.first?.without_end()))
    }

    /// Returns whether a request of this reading that has not ended has been in flight for too long.
    fn is_old(&self, reading: &Reading, now: f64) -> bool {
        reading.at + (self.allowed + LOG_LAG).as_secs_f64() <= now
    }
}

impl Bake {
    /// Records the requests in flight, if they were read, and those that ended, if the log was read.
    pub(super) fn record_in_flight(
        &mut self,
        in_flight: Option<(f64, u64)>,
        ended: Option<Vec<(f64, f64)>>,
    ) {
        let log_was_read = ended.is_some();
        if let Some((at, count)) = in_flight {
            self.hanging.record_reading(at, count);
        }
        // Also without a reading: earlier readings need to know which requests have ended.
        for (began, ended) in ended.into_iter().flatten() {
            self.hanging.record_ended(began, ended);
        }
        let count = in_flight.filter(|_| log_was_read);
        // Without a reading the last count holds. Counting from zero again would look like a rise.
        if let Some(hang) = count.and_then(|(at, _)| self.hanging.count(at)) {
            self.hang = hang;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Duration = Duration::from_secs(5);

    /// A request that began and ended at these times; one that hangs ends at infinity.
    type Span = (f64, f64);

    /// Observes these requests each second, with a log that lags. Returns each count from the first one on.
    fn counts(requests: &[Span], noise: impl Fn(u32) -> u64) -> Vec<u64> {
        let mut hanging = Hanging::new(ALLOWED);
        let mut logged_until = f64::NEG_INFINITY;
        let mut counts = Vec::new();
        for second in 0..60 {
            let now = 1e9 + f64::from(second);
            let in_flight = requests
                .iter()
                .filter(|it| it.0 < now && now < it.1)
                .count();
            hanging.record_reading(now, in_flight as u64 + noise(second));
            let until = now - fastrand::f64() * LOG_LAG.as_secs_f64();
            for (began, ended) in requests {
                if logged_until < *ended && *ended <= until {
                    hanging.record_ended(*began, *ended);
                }
            }
            logged_until = logged_until.max(until);
            counts.extend(hanging.count(now));
        }
        counts
    }

    /// Healthy requests: 100 per second, from before the first reading on.
    fn traffic() -> Vec<Span> {
        let request = |_| {
            let began = 1e9 - 10.0 + fastrand::f64() * 70.0;
            (began, began + fastrand::f64() * ALLOWED.as_secs_f64())
        };
        (0..7_000).map(request).collect()
    }

    #[test]
    fn healthy_requests_do_not_hang() {
        for seed in 0..20 {
            fastrand::seed(seed);
            let counts = counts(&traffic(), |_| 0);
            assert_eq!(counts, vec![0; counts.len()], "seed {seed}");
            assert!(counts.len() >= 50, "{}", counts.len());
        }
    }

    #[test]
    fn hanging_requests_are_counted_exactly() {
        for seed in 0..20 {
            fastrand::seed(seed);
            let mut requests = traffic();
            requests.extend((0..seed).map(|_| (1e9 + 20.5, f64::INFINITY)));
            let counts = counts(&requests, |_| 0);
            assert_eq!(counts.first(), Some(&0), "seed {seed}");
            assert_eq!(counts.last(), Some(&seed), "seed {seed}");
        }
    }

    #[test]
    fn requests_of_the_old_release_are_not_counted() {
        fastrand::seed(1);
        let mut requests = traffic();
        requests.extend([(1e9 - 1.0, f64::INFINITY); 3]);
        requests.extend((0..30).map(|end| (1e9 - 1.0, 1e9 + 0.7 + f64::from(end))));
        let counts = counts(&requests, |_| 0);
        assert_eq!(counts, vec![0; counts.len()]);
    }

    #[test]
    fn short_unlogged_requests_are_not_counted() {
        fastrand::seed(1);
        let counts = counts(&traffic(), |second| u64::from(second % 3 != 0) * 4);
        assert_eq!(counts, vec![0; counts.len()]);
    }

    #[test]
    fn count_is_unknown_until_enough_readings_are_old() {
        let mut hanging = Hanging::new(Duration::from_secs(200));
        assert_eq!(hanging.count(1e9), None);
        hanging.record_reading(0.0, 0);
        for second in 1..400 {
            let now = f64::from(second);
            hanging.record_reading(now, 1);
            let expected = match second {
                ..205 => None,
                // The first reading shows no request.
                205 => Some(0),
                _ => Some(1),
            };
            assert_eq!(hanging.count(now), expected, "{second}");
            assert!(hanging.readings.len() <= 203 + READINGS);
        }
    }

    #[test]
    fn requests_that_a_restarted_router_dropped_are_not_counted() {
        let mut hanging = Hanging::new(ALLOWED);
        for (second, in_flight) in (0..12).zip([0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]) {
            hanging.record_reading(f64::from(second), in_flight);
        }
        assert_eq!(hanging.count(11.0), Some(9));
        hanging.record_reading(12.0, 0);
        assert_eq!(hanging.count(12.0), Some(0));
    }
}

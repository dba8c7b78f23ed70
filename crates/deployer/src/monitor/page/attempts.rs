//! Limits failed attempts to sign in, for each address.
//!
//! A key cannot be guessed. The limit keeps a program that tries from filling the monitor's log.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So many failures are allowed within [`WINDOW`].
pub(crate) const MAX_FAILURES: u32 = 10;
/// How long failures count.
pub(crate) const WINDOW: Duration = Duration::from_mins(5);
/// How many addresses are remembered. The one that failed first makes room for the next.
const MAX_ADDRESSES: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
}

/// The failures of all addresses.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

impl Attempts {
    /// Returns how long `from` must wait before the next attempt; `None` if it may try now.
    pub(crate) fn wait(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Failures { count, since } = *failures.get(&network(from))?;
        let left = WINDOW.checked_sub(now.duration_since(since))?;
        (count >= MAX_FAILURES && !left.is_zero()).then_some(left)
    }

    /// Records a failure. Returns whether it is the last one that is allowed.
    pub(crate) fn record_failure(&self, from: IpAddr, now: Instant) -> bool {
        let from = network(from);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, it| now.duration_since(it.since) < WINDOW);
        if failures.len() >= MAX_ADDRESSES
            && !failures.contains_key(&from)
            && let Some(&oldest) = failures
                .iter()
                .min_by_key(|(_, it)| it.since)
                .map(|it| it.0)
        {
            failures.remove(&oldest);
        }
        let first = Failures {
            count: 0,
            since: now,
        };
        let of_address = failures.entry(from).or_insert(first);
        of_address.count = of_address.count.saturating_add(1);
        of_address.count == MAX_FAILURES
    }
}

/// Returns the network that one client can use: an IPv4 address, or a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_of_one_address_are_limited_for_the_window() {
        let (attempts, began) = (Attempts::default(), Instant::now());
        let from = address("192.0.2.1");
        for failure in 1..=MAX_FAILURES {
            assert_eq!(attempts.wait(from, began), None);
            let is_last = attempts.record_failure(from, began);
            assert_eq!(is_last, failure == MAX_FAILURES);
        }
        assert_eq!(attempts.wait(from, began), Some(WINDOW));
        assert_eq!(
            attempts.wait(address("::ffff:192.0.2.1"), began),
            Some(WINDOW)
        );
        assert_eq!(attempts.wait(address("192.0.2.2"), began), None);
        assert_eq!(attempts.wait(from, began + WINDOW), None);
        assert!(!attempts.record_failure(from, began + WINDOW));
        assert_eq!(attempts.wait(from, began + WINDOW), None);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_the_limit() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for host in 0..MAX_FAILURES {
            attempts.record_failure(address(&format!("2001:db8::{host:x}")), now);
        }
        assert!(attempts.wait(address("2001:db8::ffff"), now).is_some());
        assert!(attempts.wait(address("2001:db8:0:1::1"), now).is_none());
    }

    #[test]
    fn number_of_remembered_addresses_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..2 * MAX_ADDRESSES {
            let number = u32::try_from(number).unwrap();
            attempts.record_failure(std::net::Ipv4Addr::from_bits(number).into(), now);
        }
        assert_eq!(attempts.failures.lock().unwrap().len(), MAX_ADDRESSES);
    }
}

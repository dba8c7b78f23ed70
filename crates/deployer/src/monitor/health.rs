//! Whether a color is up, by its last checks.

/// Whether something is up. Several checks in a row change it.
#[derive(Debug, Clone, Copy)]
pub struct HealthTracker {
    fall: u32,
    rise: u32,
    up: bool,
    /// The number of the last checks in a row that contradict `up`.
    against: u32,
}

impl HealthTracker {
    /// `fall` failed checks in a row mean down; `rise` passed checks in a row mean up again.
    #[must_use]
    pub fn new(fall: u32, rise: u32, up: bool) -> Self {
        Self {
            fall,
            rise,
            up,
            against: 0,
        }
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(self) -> bool {
        self.up
    }

    /// Adds one check. Returns whether the state changed.
    pub fn record(&mut self, passed: bool) -> bool {
        if passed == self.up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if self.up { self.fall } else { self.rise };
        if self.against < needed {
            return false;
        }
        self.up = passed;
        self.against = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(checks: &[bool]) -> Vec<bool> {
        let mut tracker = HealthTracker::new(3, 2, true);
        checks
            .iter()
            .map(|passed| tracker.record(*passed))
            .collect()
    }

    #[test]
    fn health_changes_after_fall_and_rise_checks() {
        let (pass, fail) = (true, false);
        let changed = changes(&[fail, fail, pass, fail, fail, fail, pass, fail, pass, pass]);
        let changed_at: Vec<usize> = (0..10).filter(|number| changed[*number]).collect();
        assert_eq!(changed_at, [5, 9]);
    }
}

//! Both colors, check by check, for as long as they serve: what is down, and what is to be done.

use serde::{Deserialize, Serialize};

use crate::{color::Color, phase::Phase};

/// Whether a color is up, by its last checks: it takes several in a row to change one's mind.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    fall: u32,
    rise: u32,
    up: bool,
    /// Checks in a row that spoke against `up`.
    against: u32,
}

impl Pulse {
    /// Up, until `fall` checks in a row fail; then down, until `rise` of them pass.
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

    /// Takes in one check, and tells whether the mind was changed.
    pub fn see(&mut self, passed: bool) -> bool {
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

/// The deployment that touched a server last, and how far it came; none before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its identifier and phase.
    pub deployment: Option<(String, Phase)>,
}

/// What is known of one color, also by the next run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// It is down, and this was said.
    pub down: bool,
    /// Its fit flag was taken while this deployment stood last; none when it was not taken.
    pub taken: Option<Standing>,
}

/// What the monitor knows of a color when it decides.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// It has the traffic.
    pub active: bool,
    /// It may stand in.
    pub fit: bool,
    /// It is up.
    pub up: bool,
    /// What stands in the journal.
    pub standing: &'a Standing,
}

/// What is to be done about a color's fit flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// It goes, because the standby is sick.
    Take,
    /// It comes back, because the standby is well again.
    Restore,
    /// It was taken, and is no longer the monitor's to restore: somebody deployed, moved traffic, or
    /// set it.
    Forget,
    /// It stays as it is.
    Leave,
}

impl Kept {
    /// Decides about the fit flag. A flag that somebody else took stays away: only the monitor
    /// knows that it took its own from a release that was proven.
    #[must_use]
    pub fn flag(&self, look: Look<'_>) -> Flag {
        let ours = self.taken.as_ref() == Some(look.standing);
        match (look.active || look.fit, self.taken.is_some()) {
            _ if !look.active && look.fit && !look.up => Flag::Take,
            (true, true) => Flag::Forget,
            (false, true) if !ours => Flag::Forget,
            (false, true) if look.up => Flag::Restore,
            _ => Flag::Leave,
        }
    }

    /// Whether the color is anybody's standby, or has the traffic: another one may well be down.
    #[must_use]
    pub fn matters(&self, look: Look<'_>) -> bool {
        look.active || look.fit || self.taken.as_ref() == Some(look.standing)
    }
}

/// The color that traffic is to move to because the active one is down; none when it is not, or when
/// the standby is no better.
#[must_use]
pub fn failover(
    active: Color,
    active_up: bool,
    standby_fit: bool,
    standby_up: bool,
) -> Option<Color> {
    (!active_up && standby_fit && standby_up).then(|| active.other())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(checks: &[bool]) -> Vec<bool> {
        let mut pulse = Pulse::new(3, 2, true);
        checks.iter().map(|passed| pulse.see(*passed)).collect()
    }

    #[test]
    fn three_failed_checks_in_a_row_are_a_fall_and_two_passed_ones_a_rise() {
        let (pass, fail) = (true, false);
        let changed = changes(&[fail, fail, pass, fail, fail, fail, pass, fail, pass, pass]);
        let at: Vec<usize> = (0..10).filter(|number| changed[*number]).collect();
        assert_eq!(at, [5, 9]);
    }

    fn standing(id: &str, phase: Phase) -> Standing {
        Standing {
            deployment: Some((id.to_owned(), phase)),
        }
    }

    fn taken(standing: &Standing) -> Kept {
        Kept {
            down: true,
            taken: Some(standing.clone()),
        }
    }

    #[test]
    fn a_sick_standby_loses_its_flag_and_gets_it_back() {
        let now = standing("a", Phase::Promoted);
        let look = |fit, up| Look {
            active: false,
            fit,
            up,
            standing: &now,
        };
        assert_eq!(Kept::default().flag(look(true, true)), Flag::Leave);
        assert_eq!(Kept::default().flag(look(true, false)), Flag::Take);
        assert_eq!(taken(&now).flag(look(false, false)), Flag::Leave);
        assert_eq!(taken(&now).flag(look(false, true)), Flag::Restore);
    }

    #[test]
    fn a_flag_that_others_took_stays_away() {
        let now = standing("a", Phase::RolledBack);
        let look = Look {
            active: false,
            fit: false,
            up: true,
            standing: &now,
        };
        assert_eq!(Kept::default().flag(look), Flag::Leave);
        assert!(!Kept::default().matters(look));
    }

    #[test]
    fn after_a_deployment_or_a_roll_back_the_flag_is_not_the_monitors_any_more() {
        let then = standing("a", Phase::Promoted);
        for now in [
            standing("a", Phase::RolledBack),
            standing("b", Phase::Refused),
        ] {
            let look = Look {
                active: false,
                fit: false,
                up: true,
                standing: &now,
            };
            assert_eq!(taken(&then).flag(look), Flag::Forget);
        }
        let look = Look {
            active: true,
            fit: false,
            up: true,
            standing: &then,
        };
        assert_eq!(taken(&then).flag(look), Flag::Forget);
    }

    #[test]
    fn the_flag_of_a_sick_active_color_is_left_alone() {
        let now = standing("a", Phase::Promoted);
        let look = Look {
            active: true,
            fit: true,
            up: false,
            standing: &now,
        };
        assert_eq!(Kept::default().flag(look), Flag::Leave);
        assert!(Kept::default().matters(look));
    }

    #[test]
    fn a_flag_that_was_taken_before_anything_was_deployed_is_remembered() {
        let kept = taken(&Standing::default());
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), kept);
    }

    #[test]
    fn traffic_moves_only_to_a_standby_that_is_better() {
        assert_eq!(failover(Color::Blue, false, true, true), Some(Color::Green));
        assert_eq!(failover(Color::Blue, true, true, true), None);
        assert_eq!(failover(Color::Blue, false, false, true), None);
        assert_eq!(failover(Color::Blue, false, true, false), None);
    }
}

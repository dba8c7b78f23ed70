//! What is to go wrong between the deployer and the world.

use std::ops::Range;

use crate::{fake_ports::State, history::Call};

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Before it had any effect.
    Before,
    /// When all of its effect had taken place.
    After,
}

/// Picks calls.
pub(crate) type Which = fn(&Call) -> bool;

/// Calls that fail: of those picked, the ones with these numbers.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) which: Which,
    pub(crate) numbers: Range<usize>,
    pub(crate) fault: Fault,
    pub(crate) seen: usize,
}

/// What somebody else does once, right after the first call picked.
pub(crate) type Action = Box<dyn FnOnce(&mut State) + Send>;

/// Everything that is to go wrong.
#[derive(Default)]
pub(crate) struct Script {
    /// Faults by the number of the call.
    pub(crate) faults: Vec<(usize, Fault)>,
    pub(crate) failing: Vec<Failing>,
    pub(crate) deed: Option<(Which, Action)>,
    /// The deployer is killed during the call with this number, if that is one it waits for.
    pub(crate) killed: Option<(usize, Fault)>,
    /// It is dead: whatever it waits for never comes.
    pub(crate) dead: bool,
    calls: usize,
}

impl Script {
    /// Counts one call and tells its number.
    pub(crate) fn count(&mut self) -> usize {
        self.calls += 1;
        self.calls - 1
    }

    /// Whether the deployer survives the next call.
    pub(crate) fn killed_at_the_next_call(&self) -> Option<Fault> {
        let (_, fault) = self.killed.filter(|(at, _)| *at == self.calls)?;
        Some(fault)
    }

    /// What goes wrong with the call of this number.
    pub(crate) fn fault(&mut self, number: usize, call: &Call) -> Option<Fault> {
        let by_number = self.faults.iter().find(|(at, _)| *at == number);
        if let Some((_, fault)) = by_number {
            return Some(*fault);
        }
        for failing in &mut self.failing {
            if !(failing.which)(call) {
                continue;
            }
            failing.seen += 1;
            if failing.numbers.contains(&(failing.seen - 1)) {
                return Some(failing.fault);
            }
        }
        None
    }

    /// The deed whose time has come.
    pub(crate) fn deed_after(&mut self, call: &Call) -> Option<Action> {
        let (_, deed) = self.deed.take_if(|(which, _)| which(call))?;
        Some(deed)
    }
}

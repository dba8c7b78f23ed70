//! Injected faults: port calls that fail, kills of the deployer, and interference by a third party.

use std::ops::Range;

use crate::{fake_ports::State, trace::Call};

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFault {
    /// Before it has any effect.
    Before,
    /// After its whole effect.
    After,
}

/// Selects calls.
pub(crate) type CallMatcher = fn(&Call) -> bool;

/// Of the calls that `matcher` selects, the ones with these numbers fail. The first call has number 0.
#[derive(Debug)]
pub(crate) struct FailingCalls {
    pub(crate) matcher: CallMatcher,
    pub(crate) numbers: Range<usize>,
    pub(crate) fault: CallFault,
    /// How many calls matched so far.
    pub(crate) matched: usize,
}

/// A change of the state by a third party, such as a person or a crash.
pub(crate) type Interference = Box<dyn FnOnce(&mut State) + Send>;

/// The faults of one test.
#[derive(Default)]
pub(crate) struct InjectedFaults {
    /// Faults by call number, counted over all calls.
    pub(crate) by_number: Vec<(usize, CallFault)>,
    pub(crate) failing: Vec<FailingCalls>,
    /// Happens once, right after the first call that the matcher selects.
    pub(crate) interference: Option<(CallMatcher, Interference)>,
    /// Kills the deployer before or after the call with this number.
    pub(crate) kill_at: Option<(usize, CallFault)>,
    /// Whether the deployer is killed: no call returns.
    pub(crate) killed: bool,
    calls: usize,
}

impl InjectedFaults {
    /// Counts a call, and returns its number.
    pub(crate) fn count_call(&mut self) -> usize {
        self.calls += 1;
        self.calls - 1
    }

    /// Returns whether the deployer is killed at the next call, and on which side of it.
    pub(crate) fn kill_at_next_call(&self) -> Option<CallFault> {
        let (_, fault) = self.kill_at.filter(|(number, _)| *number == self.calls)?;
        Some(fault)
    }

    /// Returns the fault of this call.
    pub(crate) fn fault_of(&mut self, number: usize, call: &Call) -> Option<CallFault> {
        let by_number = self.by_number.iter().find(|(at, _)| *at == number);
        if let Some((_, fault)) = by_number {
            return Some(*fault);
        }
        for failing in &mut self.failing {
            if !(failing.matcher)(call) {
                continue;
            }
            failing.matched += 1;
            if failing.numbers.contains(&(failing.matched - 1)) {
                return Some(failing.fault);
            }
        }
        None
    }

    /// Takes the interference if it follows this call.
    pub(crate) fn take_interference(&mut self, call: &Call) -> Option<Interference> {
        let (_, interference) = self.interference.take_if(|(matches, _)| matches(call))?;
        Some(interference)
    }
}

//! What the server is to whoever asks for its health.

use std::sync::{
    OnceLock,
    atomic::{AtomicU8, Ordering},
};

/// What the server is to whoever asks for its health. Only [`Phase::Ready`] is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The release is being read and proved.
    Loading,
    /// It answers.
    Ready,
    /// It was told to stop; it still answers what arrives.
    Draining,
    /// It cannot answer, and will not recover by itself.
    Unfit {
        /// What happened, for a person.
        reason: String,
    },
}

impl Phase {
    /// Why the server is not healthy; `None` if it is.
    pub(crate) fn unhealthy_reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Loading => Some("loading the release".to_owned()),
            Self::Draining => Some("draining: the server was told to stop".to_owned()),
            Self::Unfit { reason } => Some(reason.clone()),
        }
    }

    /// Whether `next` may follow. A server that was told to stop or cannot go on never turns
    /// healthy again, whatever else finishes meanwhile.
    fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Loading, Self::Ready) => true,
            (_, Self::Ready | Self::Loading) => false,
            (current, Self::Draining) => matches!(current, Self::Loading | Self::Ready),
            (current, Self::Unfit { .. }) => matches!(current, Self::Loading | Self::Ready),
        }
    }
}

/// The current phase, shared by everyone who asks or changes it.
///
/// Atomic, since each answer asks whether the server drains.
#[derive(Debug, Default)]
pub(crate) struct CurrentPhase {
    code: AtomicU8,
    /// Why it is unfit. Set before the code says so; the first reason stays.
    reason: OnceLock<String>,
}

const LOADING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
const UNFIT: u8 = 3;

impl CurrentPhase {
    /// Starts with [`Phase::Loading`].
    pub(crate) fn loading() -> Self {
        Self::default()
    }

    /// The phase now.
    pub(crate) fn get(&self) -> Phase {
        self.decode(self.code.load(Ordering::Acquire))
    }

    /// Whether the phase is [`Phase::Draining`].
    pub(crate) fn is_draining(&self) -> bool {
        self.code.load(Ordering::Relaxed) == DRAINING
    }

    /// Goes on to `next` if that may follow, and tells whether it did.
    pub(crate) fn advance(&self, next: Phase) -> bool {
        let code = match next {
            Phase::Loading => LOADING,
            Phase::Ready => READY,
            Phase::Draining => DRAINING,
            Phase::Unfit { reason } => {
                self.reason.get_or_init(|| reason);
                UNFIT
            }
        };
        let next = self.decode(code);
        let follow = |current| self.decode(current).may_become(&next).then_some(code);
        let followed = self
            .code
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, follow);
        followed.is_ok()
    }

    fn decode(&self, code: u8) -> Phase {
        match code {
            LOADING => Phase::Loading,
            READY => Phase::Ready,
            DRAINING => Phase::Draining,
            _ => Phase::Unfit {
                reason: self.reason.get().cloned().unwrap_or_default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfit() -> Phase {
        Phase::Unfit {
            reason: "the worker ended".to_owned(),
        }
    }

    #[test]
    fn only_a_ready_server_is_healthy() {
        assert_eq!(Phase::Ready.unhealthy_reason(), None);
        for phase in [Phase::Loading, Phase::Draining, unfit()] {
            assert!(phase.unhealthy_reason().is_some(), "{phase:?}");
        }
    }

    #[test]
    fn a_server_that_was_told_to_stop_while_loading_never_turns_ready() {
        let phase = CurrentPhase::loading();
        assert!(phase.advance(Phase::Draining));
        assert!(!phase.advance(Phase::Ready));
        assert!(!phase.advance(unfit()));
        assert_eq!(phase.get(), Phase::Draining);
        assert!(phase.is_draining());
    }

    #[test]
    fn an_unfit_server_stays_unfit() {
        let phase = CurrentPhase::loading();
        assert!(phase.advance(Phase::Ready));
        assert!(phase.advance(unfit()));
        assert!(!phase.advance(Phase::Ready));
        assert_eq!(phase.get(), unfit());
    }
}

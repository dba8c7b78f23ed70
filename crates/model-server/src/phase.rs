//! The phase of the server, from loading to draining.

use std::sync::{
    OnceLock,
    atomic::{AtomicU8, Ordering},
};

/// The phase of the server. Only [`Phase::Ready`] is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The release is being loaded and tested.
    Loading,
    /// The server answers predictions.
    Ready,
    /// The server received a stop signal, and still answers new requests.
    Draining,
    /// The server cannot answer, and does not recover.
    Unfit {
        /// What happened, as a sentence.
        reason: String,
    },
}

impl Phase {
    /// Why the server is unhealthy; `None` if it is healthy.
    pub(crate) fn unhealthy_reason(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Loading => Some("loading the release".to_owned()),
            Self::Draining => Some("draining after a stop signal".to_owned()),
            Self::Unfit { reason } => Some(reason.clone()),
        }
    }

    /// Whether `next` may follow. A server that drains or is unfit never becomes ready again, even if loading
    /// still succeeds.
    fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Loading, Self::Ready) => true,
            (_, Self::Ready | Self::Loading) => false,
            (current, Self::Draining) => matches!(current, Self::Loading | Self::Ready),
            (current, Self::Unfit { .. }) => matches!(current, Self::Loading | Self::Ready),
        }
    }
}

/// The current phase. It is atomic because each response checks whether the server drains.
#[derive(Debug, Default)]
pub(crate) struct CurrentPhase {
    code: AtomicU8,
    /// Why it is unfit. Set before `code`; the first reason wins.
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

    /// The current phase.
    pub(crate) fn get(&self) -> Phase {
        self.decode(self.code.load(Ordering::Acquire))
    }

    /// Whether the phase is [`Phase::Draining`].
    pub(crate) fn is_draining(&self) -> bool {
        self.code.load(Ordering::Relaxed) == DRAINING
    }

    /// Changes to `next` if that may follow. Returns whether it did.
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
    fn only_ready_server_is_healthy() {
        assert_eq!(Phase::Ready.unhealthy_reason(), None);
        for phase in [Phase::Loading, Phase::Draining, unfit()] {
            assert!(phase.unhealthy_reason().is_some(), "{phase:?}");
        }
    }

    #[test]
    fn draining_server_never_becomes_ready() {
        let phase = CurrentPhase::loading();
        assert!(phase.advance(Phase::Draining));
        assert!(!phase.advance(Phase::Ready));
        assert!(!phase.advance(unfit()));
        assert_eq!(phase.get(), Phase::Draining);
        assert!(phase.is_draining());
    }

    #[test]
    fn unfit_server_stays_unfit() {
        let phase = CurrentPhase::loading();
        assert!(phase.advance(Phase::Ready));
        assert!(phase.advance(unfit()));
        assert!(!phase.advance(Phase::Ready));
        assert_eq!(phase.get(), unfit());
    }
}

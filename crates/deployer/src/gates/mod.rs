//! The gates before the switch, one file each.

mod agreement;
mod comparison;
mod gate;
mod golden;
mod headroom;
mod health;
mod identity;
mod load;
mod pairs;
mod reachable;
mod shadow;
mod smoke;
mod warm;

use crate::config::{GateName, Settings};

pub use crate::gates::agreement::Agreement;
pub use crate::gates::comparison::Comparison;
pub use crate::gates::gate::{Candidate, Gate, GoldenLabels};
pub use crate::gates::golden::Golden;
pub use crate::gates::headroom::Headroom;
pub use crate::gates::health::Healthy;
pub use crate::gates::identity::Identity;
pub use crate::gates::identity::compare;
pub use crate::gates::load::LoadGate;
pub use crate::gates::reachable::Reachable;
pub use crate::gates::shadow::Shadow;
pub use crate::gates::smoke::Smoke;
pub use crate::gates::warm::Warm;

/// Returns the gates that the settings select, in their order.
#[must_use]
pub fn selected_gates(settings: &Settings) -> Vec<Box<dyn Gate>> {
    let mut names = settings.gates.run.clone();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| gate(name, settings)).collect()
}

fn gate(name: GateName, settings: &Settings) -> Box<dyn Gate> {
    match name {
        GateName::Identity => Box::new(Identity),
        GateName::Reachable => Box::new(Reachable::new(settings.router.confirm_timeout)),
        GateName::Smoke => Box::new(Smoke::new(settings.smoke.clone())),
        GateName::Golden => Box::new(Golden::new(settings.golden.clone())),
        GateName::Agreement => Box::new(Agreement::new(settings.agreement.clone())),
        GateName::Warm => Box::new(Warm::new(settings.warm.clone())),
        GateName::Load => Box::new(LoadGate::new(settings.load.clone())),
        GateName::Comparison => Box::new(Comparison::new(
            settings.comparison.clone(),
            if settings.probe.kind.is_streamed() {
                settings.probe.stream.max_silence
            } else {
                settings.probe.timeout
            },
        )),
        GateName::Headroom => Box::new(Headroom::new(
            settings.headroom.clone(),
            settings.load.clone(),
        )),
        GateName::Shadow => Box::new(Shadow::new(settings.shadow.clone())),
    }
}

//! Steps that several commands share.

use crate::{
    color::Color,
    event::{Event, Reporter},
    ports::{Ports, Target},
};

/// Ends the copies of client requests to the idle color. Called first by a command that holds the lock: only a
/// killed deployer can have left them on.
pub(super) async fn stop_leftover_shadow(ports: &Ports, reporter: &dyn Reporter) {
    if let Err(error) = ports.flags.set_shadow(false).await {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
}

/// The version that `color` serves, or why it is not healthy.
pub(super) async fn served_version(ports: &Ports, color: Color) -> Result<String, String> {
    match ports.probe.health(Target::Server(color)).await {
        Ok(health) => Ok(health
            .model_version
            .unwrap_or_else(|| "a release that reports no version".to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

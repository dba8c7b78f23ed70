//! `deployer switch COLOR`

use super::{Ended, print, who};
use crate::{
    adapters,
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    exit_code,
};

pub(super) async fn run(
    settings: &Settings,
    color: Color,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let world = adapters::connect(settings, Vec::new())?;
    let active = world.router.active().await.map_err(Ended::refused)?;
    let version = who(&world, color).await.map_err(|error| {
        Ended::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    if active != color {
        let from = world.router.point_at(color).await?;
        reporter.report(&Event::Moved { from, to: color });
    }
    print(&format!("switched: {color} serves {version}"));
    Ok(exit_code::FINE)
}

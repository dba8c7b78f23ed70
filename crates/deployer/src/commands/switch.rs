//! `deployer switch COLOR`

use super::{Ended, move_by_hand, print, who};
use crate::{
    adapters, color::Color, config::Settings, event::Reporter, exit_code, journal::Journal,
};

pub(super) async fn run(
    settings: &Settings,
    color: Color,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let world = adapters::connect(settings)?;
    let active = world.router.active().await.map_err(Ended::refused)?;
    let version = who(&world, color).await.map_err(|error| {
        Ended::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    if active != color {
        move_by_hand(&world, journal, reporter, color).await?;
    }
    print(&format!("switched: {color} serves {version}"));
    Ok(exit_code::FINE)
}

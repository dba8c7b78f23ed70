//! Replaces the flags of a router by those of a truth.

use crate::{
    adapters::nginx::flags::FlagDirectory,
    cluster::RouterFlags,
    color::Color,
    ports::{Flags as _, PortError},
};

/// Writes the flags that differ. A color loses its fit flag before traffic moves, and gets it afterwards: in between, the
/// router has fewer standbys than before or after.
pub(super) async fn write_flags(
    directory: &FlagDirectory,
    flags: RouterFlags,
) -> Result<(), PortError> {
    for color in Color::BOTH {
        if !flags.is_fit(color) && directory.is_fit(color).await? {
            directory.set_fit(color, false).await?;
        }
    }
    if directory.is_shadow().await? != flags.shadow {
        directory.set_shadow(flags.shadow).await?;
    }
    if directory.active().await? != flags.active {
        directory.activate(flags.active)?;
    }
    for color in Color::BOTH {
        if flags.is_fit(color) && !directory.is_fit(color).await? {
            directory.set_fit(color, true).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn flags_of_every_truth_replace_those_of_every_other() {
        let all: Vec<_> = (0..16_u8)
            .map(|bits| RouterFlags {
                active: if bits & 1 == 0 {
                    Color::Blue
                } else {
                    Color::Green
                },
                fit_blue: bits & 2 != 0,
                fit_green: bits & 4 != 0,
                shadow: bits & 8 != 0,
            })
            .collect();
        let temporary = tempfile::tempdir().unwrap();
        let directory = FlagDirectory::new(temporary.path().to_owned());
        for from in &all {
            for to in &all {
                write_flags(&directory, *from).await.unwrap();
                write_flags(&directory, *to).await.unwrap();
                let written = RouterFlags {
                    active: directory.active().await.unwrap(),
                    fit_blue: directory.is_fit(Color::Blue).await.unwrap(),
                    fit_green: directory.is_fit(Color::Green).await.unwrap(),
                    shadow: directory.is_shadow().await.unwrap(),
                };
                assert_eq!(written, *to);
            }
        }
    }
}

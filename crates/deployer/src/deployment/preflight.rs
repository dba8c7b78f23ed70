//! Checks before a deployment changes anything.

use std::{fs, path::Path};

use rustix::fs::statvfs;

use crate::{
    color::Color,
    config::Settings,
    ports::{Ports, Target},
    release::Health,
};

/// Checks disk, flags, and router. The error says what is wrong and what to do. `active` is `None` if the
/// active color is known to be down.
pub async fn check(
    settings: &Settings,
    ports: &Ports,
    active: Option<Color>,
) -> Result<(), String> {
    room(&settings.state, settings.min_free_megabytes)?;
    if !settings.routers.are_used() {
        room(&settings.router.flags, settings.min_free_megabytes)?;
    }
    ports
        .router
        .check_flags()
        .await
        .map_err(|error| error.to_string())?;
    match active {
        Some(active) => check_same_router(settings, ports, active).await,
        None => Ok(()),
    }
}

/// Checks that the directory is writable and its disk has space left.
pub fn room(directory: &Path, min_free_megabytes: u64) -> Result<(), String> {
    let shown = directory.display();
    let probe = directory.join(".room");
    let written = fs::write(&probe, [0; 4096]);
    // Removed also if the write failed half-way.
    let removed = fs::remove_file(&probe);
    written
        .and(removed)
        .map_err(|error| format!("{shown} cannot be written to: {error}"))?;
    let free = free_megabytes(directory)?;
    if free < min_free_megabytes {
        return Err(format!(
            "the disk of {shown} has {free} MB left, {min_free_megabytes} MB are needed (min_free_megabytes): free some, for example by `docker image prune`"
        ));
    }
    Ok(())
}

/// Returns the free space of the directory's disk for an ordinary user, in megabytes of 10^6 bytes.
pub fn free_megabytes(directory: &Path) -> Result<u64, String> {
    let disk = statvfs(directory).map_err(|error| {
        format!(
            "cannot look at the disk of {}: {error}",
            directory.display()
        )
    })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize) / 1_000_000)
}

/// Checks that `router.url` and `router.control` are the same router.
///
/// The uptime that a server reports through the public port must lie between two uptimes that it reports
/// through the control port before and after.
pub async fn check_same_router(
    settings: &Settings,
    ports: &Ports,
    active: Color,
) -> Result<(), String> {
    let ask = |target| ports.probe.health(target);
    // An active color that is down is reported elsewhere.
    let Ok(before) = ask(Target::ThroughRouter(active)).await else {
        return Ok(());
    };
    let standby = Target::ThroughRouter(active.other());
    let standby_before = ask(standby).await;
    let public = ask(Target::Public).await.map_err(|error| {
        format!("{active} is healthy, and clients do not reach it by router.url: {error}")
    })?;
    let Ok(after) = ask(Target::ThroughRouter(active)).await else {
        return Ok(());
    };
    if is_same_server(&before, &public, &after) {
        return Ok(());
    }
    // nginx passes the active color over for a moment after requests that fail on both colors.
    if let (Ok(before), Ok(after)) = (standby_before, ask(standby).await)
        && is_same_server(&before, &public, &after)
    {
        return Ok(());
    }
    if is_same_release(&before, &public) && has_several_processes(ports, active).await {
        return Ok(());
    }
    let by = if settings.routers.are_used() {
        "the store of the routers"
    } else {
        &settings.router.control
    };
    Err(format!(
        "clients at {} are not answered by {active}, which is active by {by}: is router.url another router?",
        settings.router.url
    ))
}

/// Whether the processes of this color's server report their own uptimes. Then its uptimes identify no server.
async fn has_several_processes(ports: &Ports, color: Color) -> bool {
    const ANSWERS: usize = 40;

    let mut before = 0.0;
    for _ in 0..ANSWERS {
        let health = ports.probe.health(Target::Server(color)).await;
        let Some(uptime) = health.ok().and_then(|health| health.uptime_seconds) else {
            return false;
        };
        if uptime < before {
            return true;
        }
        before = uptime;
    }
    false
}

/// Whether one server gave these three answers in this order, as far as they tell.
fn is_same_server(before: &Health, between: &Health, after: &Health) -> bool {
    let [first, second, third] = [before, between, after].map(|health| health.uptime_seconds);
    is_same_release(before, between)
        && match (first, second, third) {
            (Some(first), Some(second), Some(third)) if first <= third => {
                (first..=third).contains(&second)
            }
            // The server reports no uptime, or was restarted in between.
            _ => true,
        }
}

/// Whether both answers report the same release.
fn is_same_release(one: &Health, other: &Health) -> bool {
    one.model_name == other.model_name
        && one.model_version == other.model_version
        && one.model_digest == other.model_digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_and_full_disk_are_named_in_error() {
        let error = room(Path::new("no/such"), 0).unwrap_err();
        assert!(error.starts_with("no/such cannot be written to"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(room(directory.path(), 0), Ok(()));
        let error = room(directory.path(), u64::MAX).unwrap_err();
        assert!(
            error.contains("MB are needed (min_free_megabytes)"),
            "{error}"
        );
    }
}

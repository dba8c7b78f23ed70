//! Returns traffic to the color that had it before a deployment.

use std::time::Duration;

use crate::{
    deployment::plan::Plan,
    ports::{PortError, Ports, Target},
};

/// Sets the idle color's fit flag again if it had one before a deployment that did not touch the color.
pub fn restore_standby(ports: &Ports, plan: &Plan) -> Result<(), PortError> {
    if plan.idle_was_fit {
        ports.router.set_fit(plan.idle, true)?;
    }
    Ok(())
}

/// Returns traffic to the color that had it before `plan`, if that color is healthy.
///
/// If that color is the sick one, traffic stays where it is: a rollback must not make things worse.
pub async fn return_traffic(ports: &Ports, plan: &Plan) -> Result<(), String> {
    const TRIES: u32 = 3;
    const PAUSE: Duration = Duration::from_millis(200);

    let Plan { active, idle, .. } = *plan;
    let mut sick = String::new();
    for _ in 0..TRIES {
        match ports.probe.health(Target::Server(active)).await {
            Ok(_) => {
                // First, so that the sick color does not stand in. Traffic moves also if the flag cannot be
                // removed.
                let unfit = ports.router.set_fit(idle, false);
                ports
                    .router
                    .switch_to(active)
                    .await
                    .map_err(|error| error.to_string())?;
                return unfit.map_err(|error| {
                    format!(
                        "traffic is back on {active}, but {idle} may still stand in for it: {error}"
                    )
                });
            }
            Err(error) => sick = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{active} is sick too: {sick}"))
}

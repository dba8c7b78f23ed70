//! `scripts/vm` on two machines: shipping to both, and the guide's commands for backup, restore, and move.

use std::process::Stdio;

use anyhow::ensure;

use super::{FAST_GATES, LENIENT_LIMITS, Result};
use crate::{
    guide,
    machine::{Machine, expect_exit, text_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn several_machines_are_deployed_until_one_fails() -> Result {
    let machines = start_two_provisioned_machines()?;
    let [first, second] = &machines;
    ship_reports_active_release_of_each_machine(&machines)?;
    lost_files_are_restored_by_commands_of_the_guide(first).await?;
    service_moves_by_commands_of_the_guide(first, second).await
}

/// Starts two machines, and provisions both at the same time to save time.
fn start_two_provisioned_machines() -> Result<[Machine; 2]> {
    let machines = [Machine::start()?, Machine::start()?];
    let mut provisioning = machines
        .each_ref()
        .map(|machine| machine.vm_command(&["provision"]));
    let provisioning = provisioning.each_mut().map(|provision| {
        provision
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    for provision in provisioning {
        let output = provision?.wait_with_output()?;
        ensure!(output.status.success(), "{}", text_of(&output));
    }
    Ok(machines)
}

fn ship_reports_active_release_of_each_machine(machines: &[Machine; 2]) -> Result {
    let [first, second] = machines;
    let names = machines.each_ref().map(Machine::host);
    let ship = |code, version| {
        let mut ship = first.vm_command(&["ship", version, "--set", FAST_GATES]);
        let ssh_options = format!("{} -i {}", first.ssh_options(), second.key().display());
        let ship = ship
            .env("HOST", names.join(","))
            .env("SSH_OPTIONS", ssh_options);
        expect_exit(code, ship)
    };

    let text = ship(0, "v1")?;
    for (machine, name) in machines.iter().zip(&names) {
        ensure!(
            text.contains(&format!("{name}: blue serves v1, healthy")),
            "{text}"
        );
        machine.add_settings(&format!(
            "{LENIENT_LIMITS}[bake]\nduration = \"2s\"\nnegligible = \"10s\""
        ))?;
    }

    second.fill_disk()?;
    let text = ship(10, "v2")?;
    for expected in [
        format!("stopped at {} (exit code 10)", names[1]),
        format!("{}: green serves v2, healthy", names[0]),
        format!("{}: blue serves v1, healthy", names[1]),
    ] {
        ensure!(text.contains(&expected), "{text}");
    }
    second.free_disk()
}

/// Prints the history on a machine.
const PRINT_HISTORY: &str = "cat /opt/blue-green/state/history.jsonl";

async fn lost_files_are_restored_by_commands_of_the_guide(machine: &Machine) -> Result {
    machine.run_as_root(
        "cd /opt/blue-green
        echo REQUEST_LOG=failures >>server.env
        echo KEPT=secret >>secrets.env",
    )?;
    let history = machine.run_as_root(PRINT_HISTORY)?;
    machine.run_as_root(&guide::commands("Backup.")?)?;
    machine.run_as_root(
        "cd /opt/blue-green && rm -r state/* run/flags/* .env deployer.toml secrets.env",
    )?;
    // Without flags, blue is active.
    machine.wait_until_served("v1").await?;
    machine.run_as_root(&guide::commands("Restoring it on the same machine.")?)?;
    machine.wait_until_served("v2").await?;
    machine.wait_until("systemctl is-active --quiet blue-green-monitor")?;
    ensure!(
        machine.run_as_root(PRINT_HISTORY)? == history,
        "the restored history differs"
    );
    ensure_settings_are_kept(machine)
}

async fn service_moves_by_commands_of_the_guide(from: &Machine, to: &Machine) -> Result {
    // The target machine has the service already, and it is removed first. A new machine would take minutes.
    to.run_as_root(&guide::commands("Taking it away.")?)?;
    let leftovers = to.run_as_root(
        "docker ps --all --quiet; docker network ls --format '{{.Name}}' | grep blue || true
        ls -d /opt/blue-green || true
        systemctl list-unit-files --no-legend 'blue-green*' || true
        getent passwd blue-green || true",
    )?;
    ensure!(leftovers.trim().is_empty(), "{leftovers}");

    to.expect_exit(0, &["provision"])?;
    let laptop = tempfile::tempdir()?;
    let backup = laptop.path().join("backup");
    from.copy_from("/root/blue-green.tar.gz", &backup)?;
    to.copy_to(&backup, "/root/blue-green.tar.gz")?;
    to.run_as_root(&guide::commands("Moving to another machine.")?)?;
    to.expect_exit(0, &["ship", "v2"])?;
    to.wait_until_served("v2").await?;
    ensure_settings_are_kept(to)?;
    let history = from.run_as_root(PRINT_HISTORY)?;
    ensure!(
        to.run_as_root(PRINT_HISTORY)?.starts_with(&history),
        "{history}"
    );
    let variables =
        to.run_as_root("sed 's/=.*//' /opt/blue-green/.env | grep -v '^#' | sort | uniq -d")?;
    ensure!(
        variables.trim().is_empty(),
        ".env sets these variables twice: {variables}"
    );
    let status = to.expect_exit(0, &["status"])?;
    ensure!(status.contains("v2"), "{status}");
    Ok(())
}

/// Fails unless the settings that the test added still exist, and only the service's user can read them.
fn ensure_settings_are_kept(machine: &Machine) -> Result {
    let modes = machine.run_as_root(
        "cd /opt/blue-green
        grep -q ^REQUEST_LOG=failures server.env
        grep -q ^KEPT=secret secrets.env
        stat -c '%n %a %U' .env server.env secrets.env secrets",
    )?;
    ensure!(
        modes
            == ".env 600 blue-green\nserver.env 600 blue-green\nsecrets.env 600 blue-green\nsecrets 700 blue-green\n",
        "{modes}"
    );
    Ok(())
}

//! `scripts/vm` on virtual machines that have nothing but Debian and sshd.

mod guide;
mod laptop;
mod machine;
mod registry;
mod two_machines;

use std::{
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::ensure;
use end_to_end::{get, post};

use laptop::{Checkout, DerivedImage, TensorService};
use machine::{Machine, PORT, ProcessGroup, expect_exit, text_of};

type Result<T = ()> = anyhow::Result<T>;

/// Settings with lenient limits, because two cores run the machine, its servers, and the clients.
const LENIENT_LIMITS: &str =
    "[load]\nconcurrency = 50\nmax_p99 = \"19s\"\n[comparison]\nnegligible = \"500ms\"\n";
/// Runs only the fast gates. One deployment of this test runs all gates.
const FAST_GATES: &str = "gates.run=[\"identity\", \"reachable\", \"smoke\"]";
const SHORT_BAKE: &str = "bake.duration=2s";

#[tokio::test(flavor = "multi_thread")]
async fn bare_machine_survives_shipping_disconnection_full_disk_and_reboot() -> Result {
    let mut machine = Machine::start()?;
    let other_checkout = Checkout::create()?;
    unsuitable_machine_is_named(&machine)?;
    second_provision_changes_nothing(&machine, &other_checkout)?;
    ship_without_disk_space_sends_nothing(&machine)?;
    interrupted_image_transfer_is_continued(&machine).await?;
    other_checkout_cannot_change_model_port_or_release(&machine, &other_checkout)?;
    let derived = DerivedImage::new()?;
    let tensors = TensorService::new(&derived)?;
    interrupted_model_transfer_is_not_used_and_is_continued(&machine, &tensors, &other_checkout)
        .await?;
    tensor_service_is_deployed_beside_text_service(&machine, &tensors).await?;
    first_failing_machine_ends_the_command(&machine)?;

    machine.add_settings(&format!(
        "{LENIENT_LIMITS}[bake]\nduration = \"20s\"\nnegligible = \"10s\""
    ))?;
    two_clients_share_one_deployment(&machine, &other_checkout)?;
    deployment_under_load_survives_broken_connection(&machine).await?;
    active_color_stays_active_after_reboot(&mut machine).await?;
    full_disk_refuses_deployment(&machine)?;
    rollback_fails_no_request(&machine).await?;
    images_are_pulled_from_registry_by_digest(&machine)?;
    base_images_are_pinned_to_registry_digests(&machine)
}

fn unsuitable_machine_is_named(machine: &Machine) -> Result {
    for (program, output, expected) in [
        ("uname", "riscv64", "this machine is riscv64"),
        ("df", "5M", "5 MB of disk are free"),
        ("date", "1000000000", "this machine's clock is"),
    ] {
        let path = format!("/usr/local/bin/{program}");
        machine.run_as_root(&format!(
            "printf '#!/bin/sh\necho {output}\n' >{path}; chmod +x {path}"
        ))?;
        let text = machine.expect_exit(69, &["provision"])?;
        ensure!(text.contains(expected), "{text}");
        machine.run_as_root(&format!("rm {path}"))?;
    }
    let text = machine.expect_exit(2, &["status"])?;
    ensure!(text.contains("there is no service blue-green"), "{text}");
    Ok(())
}

fn second_provision_changes_nothing(machine: &Machine, other_checkout: &Checkout) -> Result {
    let text = machine.expect_exit(0, &["provision"])?;
    ensure!(text.contains("changed    Docker was installed"), "{text}");
    let text = expect_exit(
        0,
        &mut machine.vm_command_of(other_checkout.path(), &["provision"]),
    )?;
    ensure!(!text.contains("  changed"), "{text}");
    // Names and ports of another user or service are refused.
    for (name, port, reason) in [("admin", "9000", "a user"), ("other", "8083", "six ports")] {
        let mut other = machine.vm_command(&["provision"]);
        let text = expect_exit(2, other.env("NAME", name).env("PORT", port))?;
        ensure!(text.contains(reason), "{text}");
    }
    Ok(())
}

fn ship_without_disk_space_sends_nothing(machine: &Machine) -> Result {
    let incoming = "/opt/blue-green/incoming";
    machine.run_as_root(&format!("mount -t tmpfs -o size=5m tmpfs {incoming}"))?;
    let text = machine.expect_exit(69, &["ship", "v1"])?;
    ensure!(text.contains("MB are needed"), "{text}");
    machine.run_as_root(&format!("umount {incoming}"))?;
    Ok(())
}

async fn interrupted_image_transfer_is_continued(machine: &Machine) -> Result {
    let mut interruption =
        machine.break_connections_when(&bytes_received("blue-green", 5_000_000))?;
    let text = machine.expect_exit(0, &["ship", "v1"])?;
    ensure!(interruption.wait()?.success(), "no connection was broken");
    ensure!(text.contains("continuing after"), "{text}");
    machine.wait_until_served("v1").await?;
    // Only sshd and the router may be reachable from outside.
    let listening =
        machine.run_as_root("ss -ltnH | awk '{print $4}' | grep -v '^127\\.' | sort -u")?;
    for address in listening.lines() {
        let port = address.rsplit(':').next().unwrap_or_default();
        ensure!(port == "22" || port == PORT.to_string(), "{listening}");
    }
    Ok(())
}

/// Returns the shell condition that more than this many bytes of a running transfer have arrived.
fn bytes_received(service: &str, bytes: usize) -> String {
    format!("[ \"$(cat /opt/{service}/incoming/*.gz 2>/dev/null | wc -c)\" -gt {bytes} ]")
}

fn other_checkout_cannot_change_model_port_or_release(
    machine: &Machine,
    other_checkout: &Checkout,
) -> Result {
    for (model, port, reason) in [
        ("another", PORT, "serves the model sentiment, not another"),
        ("sentiment", 9000, "has PORT 8080, not 9000"),
    ] {
        let mut provision = machine.vm_command_of(other_checkout.path(), &["provision"]);
        let provision = provision.env("MODEL", model).env("PORT", port.to_string());
        let text = expect_exit(2, provision)?;
        ensure!(text.contains(reason), "{text}");
    }
    other_checkout.replace_version("v1", "v2")?;
    let text = expect_exit(
        2,
        &mut machine.vm_command_of(other_checkout.path(), &["ship", "v1"]),
    )?;
    ensure!(
        text.contains("v1 of sentiment is another release on this machine"),
        "{text}"
    );
    Ok(())
}

async fn interrupted_model_transfer_is_not_used_and_is_continued(
    machine: &Machine,
    tensors: &TensorService,
    other_checkout: &Checkout,
) -> Result {
    let checkout = end_to_end::repository();
    expect_exit(
        0,
        &mut tensors.vm_command(machine, &checkout, &["provision"]),
    )?;
    // The guide says to set this for a tensor model.
    let predict_path = format!("predict_path = \"{}\"", TensorService::INFER_PATH);
    machine.run_as_root(&format!(
        "sed -i 's|^\\[probe\\]$|&\\n{predict_path}|' /opt/second/deployer.toml"
    ))?;

    // The connection breaks during the transfer, and the client is killed.
    let mut interruption = machine.stop_ssh_when(&bytes_received("second", 2_000_000))?;
    let mut ship = tensors.vm_command(machine, &checkout, &["ship", "v1"]);
    let client = ProcessGroup::spawn(ship.stderr(Stdio::null()))?;
    ensure!(interruption.wait()?.success(), "no connection was broken");
    drop(client);
    machine.run_as_root("systemctl start ssh")?;
    let installed = machine.run_as_root(
        "cd /opt/second && find models/store models/tokens -mindepth 1; ls served || true",
    )?;
    ensure!(installed.trim().is_empty(), "{installed}");

    // Another checkout has the same release with other modification times, and continues the transfer.
    tensors.set_modification_time(SystemTime::now())?;
    let mut ship = tensors.vm_command(machine, other_checkout.path(), &["ship", "v1"]);
    let text = expect_exit(0, &mut ship)?;
    ensure!(text.contains("continuing after"), "{text}");
    ensure!(
        !text.contains("the model that arrived has the digest"),
        "{text}"
    );
    // The derived image shares its lower layers with an image of the machine, so only the small layer is sent.
    ensure!(
        text.contains("-derived-") && text.contains(", 1 MB;"),
        "{text}"
    );
    let leftovers = machine.run_as_root("ls /opt/second/incoming")?;
    ensure!(leftovers.trim().is_empty(), "{leftovers}");

    for (port, version) in [(PORT, "v1"), (TensorService::PORT, "v1")] {
        ensure_served(machine, port, version).await?;
    }
    Ok(())
}

async fn ensure_served(machine: &Machine, port: u16, version: &str) -> Result {
    let health = get(&format!("{}:{port}", machine.address()), "/health").await?;
    let wanted = format!("\"model_version\":\"{version}\"");
    ensure!(health.contains(&wanted), "{health}");
    Ok(())
}

async fn tensor_service_is_deployed_beside_text_service(
    machine: &Machine,
    tensors: &TensorService,
) -> Result {
    let ship = ["ship", "v2", "--set", FAST_GATES, "--set", SHORT_BAKE];
    let text = expect_exit(
        0,
        &mut tensors.vm_command(machine, &end_to_end::repository(), &ship),
    )?;
    ensure!(text.contains("promoted: v2 on green"), "{text}");
    ensure_served(machine, TensorService::PORT, "v2").await?;
    let router = format!("{}:{}", machine.address(), TensorService::PORT);
    let request = TensorService::request().to_string();
    let status = post(&router, TensorService::INFER_PATH, "X-From: test", &request).await?;
    ensure!(status == 200, "{status}");
    ensure_served(machine, PORT, "v1").await
}

fn first_failing_machine_ends_the_command(machine: &Machine) -> Result {
    let mut several = machine.vm_command(&["status"]);
    let hosts = format!("{0},admin@nowhere.invalid,{0}", machine.host());
    let text = expect_exit(255, several.env("HOST", hosts))?;
    ensure!(text.contains("stopped at admin@nowhere.invalid"), "{text}");
    ensure!(
        text.contains("admin@nowhere.invalid: there is no connection"),
        "{text}"
    );
    ensure!(text.matches("`deployer rollback`").count() == 1, "{text}");
    Ok(())
}

fn two_clients_share_one_deployment(machine: &Machine, other_checkout: &Checkout) -> Result {
    let refused_deployment = ["deploy", "v1", "--set", "golden.min_accuracy=1.0"];
    let mut viewers = [
        machine.vm_command(&refused_deployment),
        machine.vm_command_of(other_checkout.path(), &refused_deployment),
    ];
    let viewers = viewers
        .each_mut()
        .map(|viewer| viewer.stderr(Stdio::piped()).spawn());
    for viewer in viewers {
        let output = viewer?.wait_with_output()?;
        let text = text_of(&output);
        ensure!(
            output.status.code() == Some(10),
            "{}: {text}",
            output.status
        );
        ensure!(text.contains("refused"), "{text}");
    }
    let history = machine.expect_exit(0, &["history"])?;
    ensure!(history.matches("refused").count() == 1, "{history}");
    ensure!(history.contains("admin"), "{history}");
    Ok(())
}

async fn deployment_under_load_survives_broken_connection(machine: &Machine) -> Result {
    let traffic = machine.start_traffic()?;
    let switched = "grep -q 'all traffic moved' /opt/blue-green/attempts/last/log 2>/dev/null";
    let mut interruption = machine.break_connections_when(switched)?;
    // The machine has the image already, so only the model is sent.
    let text = machine.expect_exit(255, &["ship", "v2"])?;
    ensure!(text.contains("has model-server:latest already"), "{text}");
    ensure!(interruption.wait()?.success(), "no connection was broken");
    ensure!(text.contains("the same command again"), "{text}");
    let text = machine.expect_exit(75, &["deploy", "v1"])?;
    ensure!(
        text.contains("another deployment runs on this machine"),
        "{text}"
    );
    // A paused viewer must not keep other viewers from the result.
    let paused_viewer = machine.pause_viewer_at(&["deploy", "v2"], "already running")?;
    machine.wait_until("[ -e /opt/blue-green/attempts/last/code ]")?;
    let text = machine.expect_exit(0, &["deploy", "v2"])?;
    ensure!(text.contains("this deployment ended at"), "{text}");
    ensure!(text.contains("promoted: v2 on green"), "{text}");
    drop(paused_viewer);
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let versions = log.by_version();
    ensure!(versions.contains_key("v2"), "{versions:?}");
    let history = machine.expect_exit(0, &["history"])?;
    ensure!(history.matches("promoted").count() == 1, "{history}");
    Ok(())
}

async fn active_color_stays_active_after_reboot(machine: &mut Machine) -> Result {
    machine.reboot()?;
    machine.wait_until_served("v2").await?;
    machine.wait_until(
        "systemctl is-active --quiet blue-green-monitor && systemctl is-active --quiet second-monitor",
    )?;
    let logs = machine.vm_command(&["logs"]);
    let mut timeout = Command::new("timeout");
    timeout
        .arg("10")
        .arg(logs.get_program())
        .args(logs.get_args());
    let variables = logs
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let text = text_of(&timeout.envs(variables).output()?);
    for expected in ["promoted: v2 on green", "router-1", "green-1"] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    // logrotate truncates the log as the service's user. The router must continue to write to it.
    machine.run_as_root("logrotate --force /etc/logrotate.d/blue-green")?;
    machine.wait_until_served("v2").await?;
    machine.wait_until("[ -s /opt/blue-green/run/logs/access.log ]")
}

fn full_disk_refuses_deployment(machine: &Machine) -> Result {
    machine.fill_disk()?;
    let text = machine.expect_exit(10, &["deploy", "v1"])?;
    ensure!(text.contains("MB left"), "{text}");
    machine.free_disk()
}

async fn rollback_fails_no_request(machine: &Machine) -> Result {
    let traffic = machine.start_traffic()?;
    let text = machine.expect_exit(0, &["rollback"])?;
    ensure!(text.contains("rolled back: blue serves v1"), "{text}");
    traffic.wait_for_requests(traffic.count() + 100).await?;
    traffic.stop().await.ensure_none_failed()?;
    machine.expect_exit(0, &["status"])?;
    Ok(())
}

fn images_are_pulled_from_registry_by_digest(machine: &Machine) -> Result {
    registry::start(machine)?;
    let image = registry::push(machine, "model-server:latest", "model-server")?;
    let router = registry::push(machine, "router:blue-green", "router:1")?;
    let mut ship = machine.vm_command(&["ship", "v2", "--set", FAST_GATES, "--set", SHORT_BAKE]);
    let ship = ship.env("IMAGE", &image).env("ROUTER_IMAGE", &router);
    let text = expect_exit(0, ship)?;
    for image in [&image, &router] {
        ensure!(text.contains(&format!("has {image}")), "{text}");
    }
    let variables = machine.run_as_root("cat /opt/blue-green/.env")?;
    ensure!(variables.contains(&image), "{variables}");
    Ok(())
}

fn base_images_are_pinned_to_registry_digests(machine: &Machine) -> Result {
    let checkout = registry::PinningCheckout::create_on(machine)?;
    let first = registry::push(machine, "router:blue-green", "base:1")?;
    let pinned = checkout.pin_images()?;
    ensure!(pinned == [&*first; 4], "{pinned:?} must all be {first}");
    let again = checkout.pin_images()?;
    ensure!(again == pinned, "{again:?}");
    // The tag now names another image, and the next run moves the pins to it.
    let second = registry::push(machine, "model-server:latest", "base:1")?;
    ensure!(second != first, "both images have the digest of {second}");
    let moved = checkout.pin_images()?;
    ensure!(moved == [&*second; 4], "{moved:?} must all be {second}");
    Ok(())
}

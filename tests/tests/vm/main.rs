//! Shipping to bare machines.

mod guide;
mod laptop;
mod machine;
mod registry;

use std::{
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::ensure;
use end_to_end::{get, post};

use laptop::{Checkout, Derived, Tensors};
use machine::{Group, Machine, PORT, expect_exit, words};

type Result<T = ()> = anyhow::Result<T>;

/// Two cores carry the machine, its servers, and their clients, so the default limits do not fit.
const LENIENT: &str =
    "[load]\nconcurrency = 50\nmax_p99 = \"19s\"\n[comparison]\nnegligible = \"500ms\"\n";
/// The fast gates; the others run once.
const FAST_GATES: &str = "gates.run=[\"identity\", \"reachable\", \"smoke\"]";
const SHORT_BAKE: &str = "bake.duration=2s";

#[tokio::test(flavor = "multi_thread")]
async fn bare_machine_survives_shipping_disconnection_full_disk_and_reboot() -> Result {
    let mut machine = Machine::start()?;
    let other_laptop = Checkout::fresh()?;
    a_machine_that_will_not_do_says_so(&machine)?;
    provisioning_again_changes_nothing_also_from_another_laptop(&machine, &other_laptop)?;
    without_room_nothing_is_sent(&machine)?;
    an_image_that_was_cut_is_gone_on_with(&machine).await?;
    another_laptop_means_the_same_service(&machine, &other_laptop)?;
    let derived = Derived::new()?;
    let tensors = Tensors::new(&derived)?;
    a_model_that_was_cut_is_not_used_and_gone_on_with(&machine, &tensors, &other_laptop).await?;
    tensors_are_deployed_beside_texts(&machine, &tensors).await?;
    of_several_machines_the_first_failure_is_the_last(&machine)?;

    machine.set(&format!(
        "{LENIENT}[bake]\nduration = \"20s\"\nnegligible = \"10s\""
    ))?;
    two_laptops_see_one_deployment(&machine, &other_laptop)?;
    under_load_a_deployment_outlives_its_connection(&machine).await?;
    after_a_reboot_the_same_color_is_active(&mut machine).await?;
    a_full_disk_refuses_before_traffic_moves(&machine)?;
    rolling_back_fails_no_request(&machine).await?;
    images_come_from_a_registry_by_digest(&machine)?;
    base_images_are_pinned_to_what_their_registry_serves(&machine)
}

fn a_machine_that_will_not_do_says_so(machine: &Machine) -> Result {
    for (program, answers, said_then) in [
        ("uname", "riscv64", "this machine is riscv64"),
        ("df", "5M", "5 MB of disk are free"),
        ("date", "1000000000", "this machine's clock is"),
    ] {
        let path = format!("/usr/local/bin/{program}");
        machine.inside(&format!(
            "printf '#!/bin/sh\necho {answers}\n' >{path}; chmod +x {path}"
        ))?;
        let said = machine.expect_exit(69, &["provision"])?;
        ensure!(said.contains(said_then), "{said}");
        machine.inside(&format!("rm {path}"))?;
    }
    let said = machine.expect_exit(2, &["status"])?;
    ensure!(said.contains("there is no service blue-green"), "{said}");
    Ok(())
}

fn provisioning_again_changes_nothing_also_from_another_laptop(
    machine: &Machine,
    other_laptop: &Checkout,
) -> Result {
    let said = machine.expect_exit(0, &["provision"])?;
    ensure!(said.contains("changed    Docker was installed"), "{said}");
    let said = expect_exit(0, &mut machine.vm_of(other_laptop.path(), &["provision"]))?;
    ensure!(!said.contains("  changed"), "{said}");
    // Names and ports that another user or service has.
    for (name, port, why) in [("admin", "9000", "a user"), ("other", "8083", "five ports")] {
        let mut other = machine.vm(&["provision"]);
        let said = expect_exit(2, other.env("NAME", name).env("PORT", port))?;
        ensure!(said.contains(why), "{said}");
    }
    Ok(())
}

fn without_room_nothing_is_sent(machine: &Machine) -> Result {
    let incoming = "/opt/blue-green/incoming";
    machine.inside(&format!("mount -t tmpfs -o size=5m tmpfs {incoming}"))?;
    let said = machine.expect_exit(69, &["ship", "v1"])?;
    ensure!(said.contains("MB are needed"), "{said}");
    machine.inside(&format!("umount {incoming}"))?;
    Ok(())
}

async fn an_image_that_was_cut_is_gone_on_with(machine: &Machine) -> Result {
    let mut cut = machine.cut_when(&has_arrived("blue-green", 5_000_000))?;
    let said = machine.expect_exit(0, &["ship", "v1"])?;
    ensure!(cut.wait()?.success(), "nothing was cut");
    ensure!(said.contains("continuing after"), "{said}");
    machine.wait_until_served("v1").await?;
    // Only the routers are reachable from outside.
    let listening = machine.inside("ss -ltnH | awk '{print $4}' | grep -v '^127\\.' | sort -u")?;
    for address in listening.lines() {
        let port = address.rsplit(':').next().unwrap_or_default();
        ensure!(port == "22" || port == PORT.to_string(), "{listening}");
    }
    Ok(())
}

/// A condition: this many bytes of a transfer have arrived, and it is not complete.
fn has_arrived(service: &str, bytes: usize) -> String {
    format!("[ \"$(cat /opt/{service}/incoming/*.gz 2>/dev/null | wc -c)\" -gt {bytes} ]")
}

fn another_laptop_means_the_same_service(machine: &Machine, other_laptop: &Checkout) -> Result {
    for (model, port, why) in [
        ("another", PORT, "serves the model sentiment, not another"),
        ("sentiment", 9000, "has PORT 8080, not 9000"),
    ] {
        let mut provision = machine.vm_of(other_laptop.path(), &["provision"]);
        let provision = provision.env("MODEL", model).env("PORT", port.to_string());
        let said = expect_exit(2, provision)?;
        ensure!(said.contains(why), "{said}");
    }
    other_laptop.mistake("v1", "v2")?;
    let said = expect_exit(2, &mut machine.vm_of(other_laptop.path(), &["ship", "v1"]))?;
    ensure!(
        said.contains("v1 of sentiment is another release here"),
        "{said}"
    );
    Ok(())
}

async fn a_model_that_was_cut_is_not_used_and_gone_on_with(
    machine: &Machine,
    tensors: &Tensors,
    other_laptop: &Checkout,
) -> Result {
    let here = end_to_end::repository();
    expect_exit(0, &mut tensors.vm(machine, &here, &["provision"]))?;
    // As in the guide.
    let asked = format!("predict_path = \"{}\"", Tensors::INFER);
    machine.inside(&format!(
        "sed -i 's|^\\[probe\\]$|&\\n{asked}|' /opt/second/deployer.toml"
    ))?;

    // The connection breaks, and the laptop is closed.
    let mut cut = machine.vanish_when(&has_arrived("second", 2_000_000))?;
    let mut ship = tensors.vm(machine, &here, &["ship", "v1"]);
    let laptop = Group::spawn(ship.stderr(Stdio::null()))?;
    ensure!(cut.wait()?.success(), "nothing was cut");
    drop(laptop);
    machine.inside("systemctl start ssh")?;
    let used = machine.inside(
        "cd /opt/second && find models/store models/tokens -mindepth 1; ls served || true",
    )?;
    ensure!(used.trim().is_empty(), "{used}");

    // Another checkout has the same release, copied at another time.
    tensors.touch(SystemTime::now())?;
    let mut ship = tensors.vm(machine, other_laptop.path(), &["ship", "v1"]);
    let said = expect_exit(0, &mut ship)?;
    ensure!(said.contains("continuing after"), "{said}");
    ensure!(!said.contains("is not what was sent"), "{said}");
    // Of an image that differs little from one there, only the difference is sent.
    ensure!(
        said.contains("-derived-") && said.contains(", 1 MB;"),
        "{said}"
    );
    let left = machine.inside("ls /opt/second/incoming")?;
    ensure!(left.trim().is_empty(), "{left}");

    for (port, version) in [(PORT, "v1"), (Tensors::PORT, "v1")] {
        served(machine, port, version).await?;
    }
    Ok(())
}

async fn served(machine: &Machine, port: u16, version: &str) -> Result {
    let health = get(&format!("{}:{port}", machine.address()), "/health").await?;
    let wanted = format!("\"model_version\":\"{version}\"");
    ensure!(health.contains(&wanted), "{health}");
    Ok(())
}

async fn tensors_are_deployed_beside_texts(machine: &Machine, tensors: &Tensors) -> Result {
    let ship = ["ship", "v2", "--set", FAST_GATES, "--set", SHORT_BAKE];
    let said = expect_exit(
        0,
        &mut tensors.vm(machine, &end_to_end::repository(), &ship),
    )?;
    ensure!(said.contains("promoted: v2 on green"), "{said}");
    served(machine, Tensors::PORT, "v2").await?;
    let router = format!("{}:{}", machine.address(), Tensors::PORT);
    let request = Tensors::request().to_string();
    let status = post(&router, Tensors::INFER, "X-From: test", &request).await?;
    ensure!(status == 200, "{status}");
    served(machine, PORT, "v1").await
}

fn of_several_machines_the_first_failure_is_the_last(machine: &Machine) -> Result {
    let mut several = machine.vm(&["status"]);
    let hosts = format!("{0},admin@nowhere.invalid,{0}", machine.host());
    let told = expect_exit(255, several.env("HOST", hosts))?;
    ensure!(told.contains("stopped at admin@nowhere.invalid"), "{told}");
    ensure!(
        told.contains("admin@nowhere.invalid: there is no connection"),
        "{told}"
    );
    ensure!(told.matches("`deployer rollback`").count() == 1, "{told}");
    Ok(())
}

fn two_laptops_see_one_deployment(machine: &Machine, other_laptop: &Checkout) -> Result {
    let impossible = ["deploy", "v1", "--set", "golden.min_accuracy=1.0"];
    let mut viewers = [
        machine.vm(&impossible),
        machine.vm_of(other_laptop.path(), &impossible),
    ];
    let viewers = viewers
        .each_mut()
        .map(|viewer| viewer.stderr(Stdio::piped()).spawn());
    for viewer in viewers {
        let seen = viewer?.wait_with_output()?;
        let said = words(&seen);
        ensure!(seen.status.code() == Some(10), "{}: {said}", seen.status);
        ensure!(said.contains("refused"), "{said}");
    }
    let history = machine.expect_exit(0, &["history"])?;
    let told = history.matches("refused").count() == 1 && history.contains("admin");
    ensure!(told, "{history}");
    Ok(())
}

async fn under_load_a_deployment_outlives_its_connection(machine: &Machine) -> Result {
    let traffic = machine.start_traffic()?;
    let switched = "grep -q 'all traffic moved' /opt/blue-green/attempts/last/log 2>/dev/null";
    let mut cut = machine.cut_when(switched)?;
    // Only the model is sent.
    let said = machine.expect_exit(255, &["ship", "v2"])?;
    ensure!(said.contains("has model-server:latest already"), "{said}");
    ensure!(cut.wait()?.success(), "nothing was cut");
    ensure!(said.contains("the same command again"), "{said}");
    let said = machine.expect_exit(75, &["deploy", "v1"])?;
    ensure!(said.contains("another deployment is at work"), "{said}");
    // A viewer that leaves before the end keeps the result available to others.
    let frozen = machine.frozen_viewer(&["deploy", "v2"], "going on already")?;
    machine.wait_until("[ -e /opt/blue-green/attempts/last/code ]")?;
    let said = machine.expect_exit(0, &["deploy", "v2"])?;
    ensure!(said.contains("this deployment ended at"), "{said}");
    ensure!(said.contains("promoted: v2 on green"), "{said}");
    drop(frozen);
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let versions = log.by_version();
    ensure!(versions.contains_key("v2"), "{versions:?}");
    let history = machine.expect_exit(0, &["history"])?;
    ensure!(history.matches("promoted").count() == 1, "{history}");
    Ok(())
}

async fn after_a_reboot_the_same_color_is_active(machine: &mut Machine) -> Result {
    machine.reboot()?;
    machine.wait_until_served("v2").await?;
    machine.wait_until(
        "systemctl is-active --quiet blue-green-monitor && systemctl is-active --quiet second-monitor",
    )?;
    let logs = machine.vm(&["logs"]);
    let mut timeout = Command::new("timeout");
    timeout
        .arg("10")
        .arg(logs.get_program())
        .args(logs.get_args());
    let variables = logs
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let said = words(&timeout.envs(variables).output()?);
    for what in ["promoted: v2 on green", "router-1", "green-1"] {
        ensure!(said.contains(what), "no {what}: {said}");
    }
    // The service's user may empty all logs, and the router continues to write them.
    machine.inside("logrotate --force /etc/logrotate.d/blue-green")?;
    machine.wait_until_served("v2").await?;
    machine.wait_until("[ -s /opt/blue-green/run/logs/access.log ]")
}

fn a_full_disk_refuses_before_traffic_moves(machine: &Machine) -> Result {
    machine.fill_disk()?;
    let said = machine.expect_exit(10, &["deploy", "v1"])?;
    ensure!(said.contains("MB left"), "{said}");
    machine.free_disk()
}

async fn rolling_back_fails_no_request(machine: &Machine) -> Result {
    let traffic = machine.start_traffic()?;
    let said = machine.expect_exit(0, &["rollback"])?;
    ensure!(said.contains("rolled back: blue serves v1"), "{said}");
    traffic.wait_for_requests(traffic.count() + 100).await?;
    traffic.stop().await.ensure_none_failed()?;
    machine.expect_exit(0, &["status"])?;
    Ok(())
}

fn images_come_from_a_registry_by_digest(machine: &Machine) -> Result {
    registry::start(machine)?;
    let image = registry::push(machine, "model-server:latest", "model-server")?;
    let router = registry::push(machine, "router:blue-green", "router:1")?;
    let mut ship = machine.vm(&["ship", "v2", "--set", FAST_GATES, "--set", SHORT_BAKE]);
    let ship = ship.env("IMAGE", &image).env("ROUTER_IMAGE", &router);
    let said = expect_exit(0, ship)?;
    for image in [&image, &router] {
        ensure!(said.contains(&format!("has {image}")), "{said}");
    }
    let variables = machine.inside("cat /opt/blue-green/.env")?;
    ensure!(variables.contains(&image), "{variables}");
    Ok(())
}

fn base_images_are_pinned_to_what_their_registry_serves(machine: &Machine) -> Result {
    let laptop = registry::Laptop::on(machine)?;
    let first = registry::push(machine, "router:blue-green", "base:1")?;
    let pinned = laptop.pin()?;
    ensure!(pinned == [&*first; 4], "{pinned:?} are not {first}");
    let again = laptop.pin()?;
    ensure!(again == pinned, "{again:?}");
    // The tag moves, and the pins follow on request.
    let second = registry::push(machine, "model-server:latest", "base:1")?;
    ensure!(second != first, "{second} twice");
    let moved = laptop.pin()?;
    ensure!(moved == [&*second; 4], "{moved:?} are not {second}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_machines_are_deployed_until_one_fails() -> Result {
    let machines = two_provisioned_machines()?;
    let [first, second] = &machines;
    it_is_told_what_runs_where(&machines)?;
    what_was_lost_is_restored_as_the_guide_says(first).await?;
    the_service_moves_as_the_guide_says(first, second).await
}

/// Both at a time, which takes half as long.
fn two_provisioned_machines() -> Result<[Machine; 2]> {
    let machines = [Machine::start()?, Machine::start()?];
    let mut provisioning = machines
        .each_ref()
        .map(|machine| machine.vm(&["provision"]));
    let provisioning = provisioning.each_mut().map(|provision| {
        provision
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    for provision in provisioning {
        let output = provision?.wait_with_output()?;
        ensure!(output.status.success(), "{}", words(&output));
    }
    Ok(machines)
}

fn it_is_told_what_runs_where(machines: &[Machine; 2]) -> Result {
    let [first, second] = machines;
    let names = machines.each_ref().map(Machine::host);
    let ship = |code, version| {
        let mut ship = first.vm(&["ship", version, "--set", FAST_GATES]);
        let keys = format!("{} -i {}", first.ssh_options(), second.key().display());
        let ship = ship.env("HOST", names.join(",")).env("SSH_OPTIONS", keys);
        expect_exit(code, ship)
    };

    let said = ship(0, "v1")?;
    for (machine, name) in machines.iter().zip(&names) {
        ensure!(
            said.contains(&format!("{name}: blue serves v1, healthy")),
            "{said}"
        );
        machine.set(&format!(
            "{LENIENT}[bake]\nduration = \"2s\"\nnegligible = \"10s\""
        ))?;
    }

    second.fill_disk()?;
    let said = ship(10, "v2")?;
    for told in [
        format!("stopped at {} (exit code 10)", names[1]),
        format!("{}: green serves v2, healthy", names[0]),
        format!("{}: blue serves v1, healthy", names[1]),
    ] {
        ensure!(said.contains(&told), "{said}");
    }
    second.free_disk()
}

const HISTORY: &str = "cat /opt/blue-green/state/history.jsonl";

async fn what_was_lost_is_restored_as_the_guide_says(machine: &Machine) -> Result {
    machine.inside(
        "cd /opt/blue-green
        echo REQUEST_LOG=failures >>server.env
        echo KEPT=secret >>secrets.env",
    )?;
    let history = machine.inside(HISTORY)?;
    machine.inside(&guide::commands("Backup.")?)?;
    machine
        .inside("cd /opt/blue-green && rm -r state/* run/flags/* .env deployer.toml secrets.env")?;
    // Without flags.
    machine.wait_until_served("v1").await?;
    machine.inside(&guide::commands("Restoring it on the same machine.")?)?;
    machine.wait_until_served("v2").await?;
    machine.wait_until("systemctl is-active --quiet blue-green-monitor")?;
    ensure!(machine.inside(HISTORY)? == history, "it is another history");
    settings_are_kept(machine)
}

async fn the_service_moves_as_the_guide_says(from: &Machine, to: &Machine) -> Result {
    // The new machine had the service before, because a bare one would take minutes.
    to.inside(&guide::commands("Taking it away.")?)?;
    let left = to.inside(
        "docker ps --all --quiet; docker network ls --format '{{.Name}}' | grep blue || true
        ls -d /opt/blue-green || true
        systemctl list-unit-files --no-legend 'blue-green*' || true
        getent passwd blue-green || true",
    )?;
    ensure!(left.trim().is_empty(), "{left}");

    to.expect_exit(0, &["provision"])?;
    let laptop = tempfile::tempdir()?;
    let backup = laptop.path().join("backup");
    from.take("/root/blue-green.tar.gz", &backup)?;
    to.put(&backup, "/root/blue-green.tar.gz")?;
    to.inside(&guide::commands("Moving to another machine.")?)?;
    to.expect_exit(0, &["ship", "v2"])?;
    to.wait_until_served("v2").await?;
    settings_are_kept(to)?;
    let history = from.inside(HISTORY)?;
    ensure!(to.inside(HISTORY)?.starts_with(&history), "{history}");
    let variables =
        to.inside("sed 's/=.*//' /opt/blue-green/.env | grep -v '^#' | sort | uniq -d")?;
    ensure!(variables.trim().is_empty(), "twice: {variables}");
    let status = to.expect_exit(0, &["status"])?;
    ensure!(status.contains("v2"), "{status}");
    Ok(())
}

/// Settings given after provisioning are kept, readable only for the service's user.
fn settings_are_kept(machine: &Machine) -> Result {
    let modes = machine.inside(
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

//! From here to a machine that has nothing: a container that boots systemd, with an sshd and a Docker
//! engine of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{Traffic, get, golden_bodies, repository};
use tempfile::TempDir;

type Result<T = ()> = anyhow::Result<T>;

const PORT: u16 = 8080;
const PAUSE: Duration = Duration::from_millis(20);

/// A machine that runs Debian and sshd, until dropped.
struct Machine {
    name: String,
    address: String,
    keys: TempDir,
}

impl Machine {
    fn start() -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);

        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key))?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("blue-green-vm-{}-{number}", std::process::id());
        // Dropped also where it does not boot.
        let mut machine = Self {
            name,
            address: String::new(),
            keys,
        };
        let mut start = Command::new(repository().join("tests/vm/machine"));
        start
            .args(["start", &machine.name])
            .arg(key.with_extension("pub"));
        run(&mut start)?.trim().clone_into(&mut machine.address);
        Ok(machine)
    }

    /// Runs something there, as root, past sshd.
    fn inside(&self, command: &str) -> Result<String> {
        run(Command::new("docker").args(["exec", &self.name, "bash", "-c", command]))
    }

    fn key(&self) -> PathBuf {
        self.keys.path().join("key")
    }

    fn ssh_options(&self) -> String {
        format!(
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {}",
            self.key().display()
        )
    }

    fn vm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(repository().join("scripts/vm"));
        command
            .args(arguments)
            .env("HOST", format!("admin@{}", self.address))
            .env("SSH_OPTIONS", self.ssh_options());
        command
    }

    /// `scripts/vm`, which must come to this; what it said.
    fn expect(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let output = self.vm(arguments).output()?;
        let said = words(&output);
        ensure!(
            output.status.code() == Some(code),
            "`scripts/vm {}` ended with {}, not {code}:\n{said}",
            arguments.join(" "),
            output.status
        );
        Ok(said)
    }

    /// Two cores carry a machine, its servers and their clients: figures that would make a release suspect
    /// elsewhere are none here.
    fn be_lenient(&self, watch: &str) -> Result {
        let more = format!(
            "[load]\nconcurrency = 50\nmax_p99 = \"19s\"\n[comparison]\nnegligible = \"500ms\"\n[watch]\nduration = \"{watch}\"\nnegligible = \"10s\"\n"
        );
        self.inside(&format!(
            "cat >>/opt/blue-green/deployer.toml <<'END'\n{more}END\n"
        ))?;
        Ok(())
    }

    /// Leaves little room for what the deployer writes.
    fn fill_disk(&self) -> Result {
        let state = "/opt/blue-green/state";
        self.inside(&format!(
            "cp -a {state} /root/state && mount -t tmpfs -o size=20m tmpfs {state} && cp -a /root/state/. {state} && chown blue-green: {state}"
        ))?;
        Ok(())
    }

    fn router(&self) -> Result<SocketAddr> {
        Ok(format!("{}:{PORT}", self.address).parse()?)
    }

    fn traffic(&self) -> Result<Traffic> {
        Ok(Traffic::start(self.router()?, 8, PAUSE, golden_bodies()?))
    }

    /// Ends every SSH connection as soon as this holds there.
    fn cut_when(&self, condition: &str) -> Result<Child> {
        let script = format!(
            "for _ in $(seq 60000); do if {condition}; then pkill -KILL -f '[s]shd: admin'; exit 0; fi; sleep 0.002; done; exit 1"
        );
        let exec = ["exec", &self.name, "bash", "-c", &script];
        Ok(Command::new("docker").args(exec).spawn()?)
    }

    /// Looks at a deployment until it says this, and then freezes: its connection stays and is dead.
    fn frozen_viewer(&self, arguments: &[&str], until: &str) -> Result<Frozen> {
        let mut viewer = self.vm(arguments);
        viewer.process_group(0).stderr(Stdio::piped());
        let mut viewer = Frozen(viewer.spawn()?);
        let said = BufReader::new(viewer.0.stderr.take().context("no stderr")?);
        for line in said.lines() {
            if line?.contains(until) {
                viewer.signal("STOP")?;
                return Ok(viewer);
            }
        }
        anyhow::bail!("it never said {until:?}")
    }

    /// Starts a registry there and gives it the model server; its name there, with its digest.
    fn push_to_registry(&self) -> Result<String> {
        self.inside(
            "apt-get install -y -qq --no-install-recommends docker-registry >/dev/null 2>&1
            systemctl disable --quiet --now docker-registry
            printf '%s\n' 'version: 0.1' 'storage: {filesystem: {rootdirectory: /var/lib/registry}}' \
                'http: {addr: 127.0.0.1:5000}' >/root/registry.yml
            systemd-run --quiet --unit registry docker-registry serve /root/registry.yml
            docker tag model-server:latest localhost:5000/model-server
            for _ in $(seq 50); do
                docker push --quiet localhost:5000/model-server >/dev/null && break
                sleep 0.2
            done",
        )?;
        let name = self.inside(
            "set -e; docker image inspect --format '{{index .RepoDigests 0}}' localhost:5000/model-server
            docker image rm localhost:5000/model-server >/dev/null",
        )?;
        Ok(name.trim().to_owned())
    }

    fn reboot(&mut self) -> Result {
        run(Command::new("docker").args(["restart", &self.name]))?;
        let address = [
            "inspect",
            "--format",
            "{{.NetworkSettings.IPAddress}}",
            &self.name,
        ];
        let address = run(Command::new("docker").args(address))?;
        address.trim().clone_into(&mut self.address);
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut stop = Command::new(repository().join("tests/vm/machine"));
        let _ = stop.args(["stop", &self.name]).output();
    }
}

/// A process group that stands still, killed when dropped.
struct Frozen(Child);

impl Frozen {
    fn signal(&self, signal: &str) -> Result {
        let group = format!("-{}", self.0.id());
        run(Command::new("kill").args(["-s", signal, "--", &group])).map(drop)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.signal("KILL");
        let _ = self.0.wait();
    }
}

/// An image with one small layer on top of the model server's, removed when dropped.
struct Derived(String);

impl Derived {
    fn new() -> Result<Self> {
        let name = format!("model-server-derived-{}", std::process::id());
        let directory = tempfile::tempdir()?;
        let recipe = "FROM model-server:latest\nCOPY Dockerfile /\n";
        fs::write(directory.path().join("Dockerfile"), recipe)?;
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--tag", &name]);
        run(build.arg(directory.path()))?;
        Ok(Self(name))
    }
}

impl Drop for Derived {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["image", "rm", &self.0])
            .output();
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", words(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

/// Waits until the machine's router answers with this version, and sees no other one before.
async fn until_served(machine: &Machine, version: &str) -> Result {
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let traffic = machine.traffic()?;
        let reached = traffic.reach(1).await;
        let log = traffic.stop().await;
        if reached.is_ok() && !log.by_version().is_empty() {
            return log.ensure_answered_by(version);
        }
        ensure!(
            Instant::now() < deadline,
            "{version} does not answer: {:?}",
            log.failures()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_machine_is_provisioned_shipped_to_cut_off_filled_rebooted_and_rolled_back() -> Result
{
    let mut machine = Machine::start()?;

    // A machine that will not do says so.
    let uname = "/usr/local/bin/uname";
    machine.inside(&format!(
        "printf '#!/bin/sh\necho riscv64\n' >{uname}; chmod +x {uname}"
    ))?;
    let said = machine.expect(69, &["provision"])?;
    ensure!(said.contains("this machine is riscv64"), "{said}");
    machine.inside(&format!("rm {uname}"))?;

    // First contact, twice: the second time there is nothing to do.
    let said = machine.expect(0, &["provision"])?;
    ensure!(said.contains("changed    Docker was installed"), "{said}");
    let said = machine.expect(0, &["provision"])?;
    ensure!(!said.contains("  changed"), "{said}");
    // What is somebody else's already, or another service's.
    for (name, port, why) in [("admin", "9000", "a user"), ("other", "8083", "five ports")] {
        let mut other = machine.vm(&["provision"]);
        let other = other.env("NAME", name).env("PORT", port).output()?;
        let said = words(&other);
        ensure!(
            other.status.code() == Some(2) && said.contains(why),
            "{said}"
        );
    }

    // No room: said before anything is sent.
    let incoming = "/opt/blue-green/incoming";
    machine.inside(&format!("mount -t tmpfs -o size=5m tmpfs {incoming}"))?;
    let said = machine.expect(69, &["ship", "v1"])?;
    ensure!(said.contains("MB are needed"), "{said}");
    machine.inside(&format!("umount {incoming}"))?;

    // The connection breaks in the middle of the image.
    let cut = format!("[ \"$(cat {incoming}/*.gz 2>/dev/null | wc -c)\" -gt 5000000 ]");
    let mut cut = machine.cut_when(&cut)?;
    let said = machine.expect(0, &["ship", "v1"])?;
    ensure!(cut.wait()?.success(), "nothing was cut");
    ensure!(said.contains("going on after"), "{said}");
    until_served(&machine, "v1").await?;
    // Only the routers can be reached from outside.
    let listening = machine.inside("ss -ltnH | awk '{print $4}' | grep -v '^127\\.' | sort -u")?;
    for address in listening.lines() {
        let port = address.rsplit(':').next().unwrap_or_default();
        ensure!(port == "22" || port == PORT.to_string(), "{listening}");
    }

    // Another service on the same machine, from an image that is nearly the same: only what differs is sent.
    let derived = Derived::new()?;
    let mut second = machine.vm(&["ship", "v2"]);
    second.env("NAME", "second").env("PORT", "9080");
    let second = second.env("IMAGE", &derived.0).output()?;
    ensure!(second.status.success(), "{}", words(&second));
    let sent = format!("sending {}, 1 MB", derived.0);
    ensure!(words(&second).contains(&sent), "{}", words(&second));
    for (port, version) in [(PORT, "v1"), (9080, "v2")] {
        let health = get(&format!("{}:{port}", machine.address), "/health").await?;
        let wanted = format!("\"model_version\":\"{version}\"");
        ensure!(health.contains(&wanted), "{health}");
    }

    // Several machines: the first failure is the last.
    let mut several = machine.vm(&["status"]);
    let hosts = format!("admin@{0},admin@nowhere.invalid,admin@{0}", machine.address);
    let several = several.env("HOST", hosts).output()?;
    let told = words(&several);
    ensure!(several.status.code() == Some(255), "{told}");
    ensure!(told.contains("stopped at admin@nowhere.invalid"), "{told}");
    ensure!(told.matches("`deployer rollback`").count() == 1, "{told}");

    machine.be_lenient("20s")?;
    // Two who look at the same deployment see the same end.
    let impossible = ["deploy", "v1", "--set", "golden.min_accuracy=1.0"];
    let mut viewers = [machine.vm(&impossible), machine.vm(&impossible)];
    let viewers = viewers
        .each_mut()
        .map(|viewer| viewer.stderr(Stdio::piped()).spawn());
    for viewer in viewers {
        let seen = viewer?.wait_with_output()?;
        let said = words(&seen);
        ensure!(seen.status.code() == Some(10), "{}: {said}", seen.status);
        ensure!(said.contains("refused"), "{said}");
    }
    let history = machine.expect(0, &["history"])?;
    let told = history.matches("refused").count() == 1 && history.contains("admin");
    ensure!(told, "{history}");

    // v2 under load: only the model is sent.
    let traffic = machine.traffic()?;
    // The connection breaks in the middle of the deployment, which goes on.
    let switched = "grep -q 'all traffic moved' /opt/blue-green/attempts/last/log 2>/dev/null";
    let mut cut = machine.cut_when(switched)?;
    let said = machine.expect(255, &["ship", "v2"])?;
    ensure!(said.contains("has model-server:latest already"), "{said}");
    ensure!(cut.wait()?.success(), "nothing was cut");
    let said = machine.expect(75, &["deploy", "v1"])?;
    ensure!(said.contains("another deployment is at work"), "{said}");
    // Somebody who looks on without seeing the end takes it from nobody.
    let frozen = machine.frozen_viewer(&["deploy", "v2"], "going on already")?;
    machine.inside("for _ in $(seq 600); do [ -e /opt/blue-green/attempts/last/code ] && exit; sleep 0.2; done; exit 1")?;
    let said = machine.expect(0, &["deploy", "v2"])?;
    ensure!(said.contains("this deployment ended at"), "{said}");
    ensure!(said.contains("promoted: v2 on green"), "{said}");
    drop(frozen);
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    ensure!(
        log.by_version().contains_key("v2"),
        "{:?}",
        log.by_version()
    );
    let history = machine.expect(0, &["history"])?;
    ensure!(history.matches("promoted").count() == 1, "{history}");

    // Everything stops and starts: the same color is active.
    machine.reboot()?;
    until_served(&machine, "v2").await?;
    machine.inside("for _ in $(seq 300); do systemctl is-active --quiet blue-green-watch && exit; sleep 0.2; done; exit 1")?;
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

    // A disk without room refuses before traffic moves.
    machine.fill_disk()?;
    let said = machine.expect(10, &["deploy", "v1"])?;
    ensure!(said.contains("MB left"), "{said}");
    machine.inside("umount -l /opt/blue-green/state")?;

    let traffic = machine.traffic()?;
    let said = machine.expect(0, &["rollback"])?;
    ensure!(said.contains("rolled back: blue serves v1"), "{said}");
    traffic.reach(traffic.count() + 100).await?;
    traffic.stop().await.ensure_none_failed()?;
    machine.expect(0, &["status"])?;

    // An image that a registry serves, by its digest.
    let image = machine.push_to_registry()?;
    let mut ship = machine.vm(&["ship", "v2"]);
    let ship = ship.env("IMAGE", &image).output()?;
    ensure!(ship.status.success(), "{}", words(&ship));
    let variables = machine.inside("cat /opt/blue-green/.env")?;
    ensure!(variables.contains(&image), "{variables}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_taken_in_turn_until_one_fails_and_it_is_told_what_runs_where() -> Result {
    let machines = [Machine::start()?, Machine::start()?];
    let [first, second] = &machines;
    let names = machines
        .each_ref()
        .map(|machine| format!("admin@{}", machine.address));
    let ship = |version| {
        let mut ship = first.vm(&["ship", version]);
        let keys = format!("{} -i {}", first.ssh_options(), second.key().display());
        ship.env("HOST", names.join(","))
            .env("SSH_OPTIONS", keys)
            .output()
    };

    let output = ship("v1")?;
    let said = words(&output);
    ensure!(output.status.success(), "{said}");
    for (machine, name) in machines.iter().zip(&names) {
        ensure!(
            said.contains(&format!("{name}: blue serves v1, healthy")),
            "{said}"
        );
        machine.be_lenient("2s")?;
    }

    second.fill_disk()?;
    let output = ship("v2")?;
    let said = words(&output);
    ensure!(output.status.code() == Some(10), "{said}");
    for told in [
        format!("stopped at {} (exit code 10)", names[1]),
        format!("{}: green serves v2, healthy", names[0]),
        format!("{}: blue serves v1, healthy", names[1]),
    ] {
        ensure!(said.contains(&told), "{said}");
    }
    Ok(())
}

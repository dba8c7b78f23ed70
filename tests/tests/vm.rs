//! From here to a machine that has nothing: a container that boots systemd, with an sshd and a Docker
//! engine of its own.

use std::{
    net::SocketAddr,
    process::{Command, Output},
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
        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key))?;
        let name = format!("blue-green-vm-{}", std::process::id());
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

    fn vm(&self, arguments: &[&str]) -> Command {
        let key = self.keys.path().join("key");
        let mut command = Command::new(repository().join("scripts/vm"));
        command
            .args(arguments)
            .env("HOST", format!("admin@{}", self.address))
            .env(
                "SSH_OPTIONS",
                format!(
                    "-i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
                    key.display()
                ),
            );
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

    fn router(&self) -> Result<SocketAddr> {
        Ok(format!("{}:{PORT}", self.address).parse()?)
    }

    fn traffic(&self) -> Result<Traffic> {
        Ok(Traffic::start(self.router()?, 8, PAUSE, golden_bodies()?))
    }

    /// Ends every SSH connection as soon as this holds there.
    fn cut_when(&self, condition: &str) -> Result<std::process::Child> {
        let script = format!(
            "for _ in $(seq 60000); do if {condition}; then pkill -KILL -f '[s]shd: admin'; exit 0; fi; sleep 0.002; done; exit 1"
        );
        let exec = ["exec", &self.name, "bash", "-c", &script];
        Ok(Command::new("docker").args(exec).spawn()?)
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

/// Waits until the machine's router answers with this version.
async fn until_served(machine: &Machine, version: &str) -> Result {
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let traffic = machine.traffic()?;
        let reached = traffic.reach(1).await;
        let log = traffic.stop().await;
        if reached.is_ok() && log.by_version().contains_key(version) {
            return Ok(());
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

    // First contact, twice: the second time there is nothing to do.
    let said = machine.expect(0, &["provision"])?;
    ensure!(said.contains("changed    Docker was installed"), "{said}");
    let said = machine.expect(0, &["provision"])?;
    ensure!(!said.contains("  changed"), "{said}");

    // No room: said before anything is sent.
    let incoming = "/opt/blue-green/incoming";
    machine.inside(&format!("mount -t tmpfs -o size=5m tmpfs {incoming}"))?;
    let said = machine.expect(69, &["ship", "v1"])?;
    ensure!(said.contains("MB are needed"), "{said}");
    machine.inside(&format!("umount {incoming}"))?;

    // The connection breaks in the middle of the image.
    let cut = format!("[ \"$(cat {incoming}/*.gz 2>/dev/null | wc -c)\" -gt 1000000 ]");
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

    // Another service on the same machine.
    let mut second = machine.vm(&["ship", "v2"]);
    let second = second.env("NAME", "second").env("PORT", "9080").output()?;
    ensure!(second.status.success(), "{}", words(&second));
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

    // v2 under load: only the model is sent.
    machine.inside(
        "printf '[load]\\nconcurrency = 50\\nmax_p99 = \"19s\"\\n[comparison]\\nnegligible = \"500ms\"\\n[watch]\\nduration = \"20s\"\\nnegligible = \"10s\"\\n' >>/opt/blue-green/deployer.toml",
    )?;
    let traffic = machine.traffic()?;
    // The connection breaks in the middle of the deployment, which goes on.
    let switched = "grep -q 'all traffic moved' /opt/blue-green/state/deployment.log 2>/dev/null";
    let mut cut = machine.cut_when(switched)?;
    let said = machine.expect(255, &["ship", "v2"])?;
    ensure!(said.contains("has model-server:latest already"), "{said}");
    ensure!(cut.wait()?.success(), "nothing was cut");
    let said = machine.expect(0, &["deploy", "v2"])?;
    ensure!(said.contains("going on already"), "{said}");
    ensure!(said.contains("promoted: v2 on green"), "{said}");
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

    // A disk without room refuses before traffic moves.
    let state = "/opt/blue-green/state";
    machine.inside(&format!(
        "cp -a {state} /root/state && mount -t tmpfs -o size=20m tmpfs {state} && cp -a /root/state/. {state} && chown blue-green: {state}"
    ))?;
    let said = machine.expect(10, &["deploy", "v1"])?;
    ensure!(said.contains("MB left"), "{said}");
    machine.inside(&format!("umount -l {state}"))?;

    let traffic = machine.traffic()?;
    let said = machine.expect(0, &["rollback"])?;
    ensure!(said.contains("rolled back: blue serves v1"), "{said}");
    traffic.reach(traffic.count() + 100).await?;
    traffic.stop().await.ensure_none_failed()?;
    machine.expect(0, &["status"])?;
    Ok(())
}

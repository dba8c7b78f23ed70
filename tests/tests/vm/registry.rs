//! An image registry on a machine's loopback, and `scripts/pin-images` on the same machine.

use end_to_end::repository;

use crate::{Result, machine::Machine};

const ADDRESS: &str = "localhost:5000";

/// Installs Debian's registry and starts it on port 5000.
pub(crate) fn start(machine: &Machine) -> Result {
    machine.run_as_root(
        "apt-get install -y -qq --no-install-recommends docker-registry >/dev/null 2>&1
        systemctl disable --quiet --now docker-registry
        printf '%s\n' 'version: 0.1' 'storage: {filesystem: {rootdirectory: /var/lib/registry}}' \
            'http: {addr: 127.0.0.1:5000}' >/root/registry.yml
        systemd-run --quiet --unit registry docker-registry serve /root/registry.yml",
    )?;
    machine.wait_until("bash -c 'exec 3<>/dev/tcp/127.0.0.1/5000' 2>/dev/null")
}

/// Pushes an image under this name. Returns its reference with the digest.
pub(crate) fn push(machine: &Machine, image: &str, name: &str) -> Result<String> {
    let name = format!("{ADDRESS}/{name}");
    let digest = machine.run_as_root(&format!(
        "docker tag {image} {name}
        docker push {name} | sed -n 's/.* digest: \\(sha256:[0-9a-f]*\\) .*/\\1/p'
        docker image rm {name} >/dev/null"
    ))?;
    Ok(format!("{name}@{}", digest.trim()))
}

/// The files that `scripts/pin-images` needs, on a machine that reaches the registry.
pub(crate) struct PinningCheckout<'a>(&'a Machine);

impl<'a> PinningCheckout<'a> {
    /// Copies the files. Each base image becomes `base:1` of the registry, because the machine cannot reach the
    /// shipped ones.
    pub(crate) fn create_on(machine: &'a Machine) -> Result<Self> {
        machine.run_as_root("mkdir -p /root/checkout/scripts /root/checkout/docker")?;
        for name in [
            "scripts/pin-images",
            "docker/Dockerfile",
            "compose.yaml",
            "server.env",
        ] {
            machine.copy_to(&repository().join(name), &format!("/root/checkout/{name}"))?;
        }
        machine.run_as_root(&format!(
            "    cd /root/checkout
            sed -i 's|^\\(ARG [A-Z]*_IMAGE=\\).*|\\1{ADDRESS}/base:1|' docker/Dockerfile
            sed -i 's|\\(ROUTER_IMAGE:-\\)[^}}]*|\\1{ADDRESS}/base:1|' compose.yaml"
        ))?;
        Ok(Self(machine))
    }

    /// Runs `scripts/pin-images`. Returns the four pinned images: three of the build, and the router's.
    pub(crate) fn pin_images(&self) -> Result<Vec<String>> {
        let images = self.0.run_as_root(
            "    cd /root/checkout
            scripts/pin-images 2>/dev/null
            sed -n 's/^ARG [A-Z]*_IMAGE=//p' docker/Dockerfile
            docker compose config --images router | sort -u",
        )?;
        Ok(images.lines().map(str::to_owned).collect())
    }
}

//! A registry on a machine's loopback, with a laptop's files beside it.

use end_to_end::repository;

use crate::{Result, machine::Machine};

const ADDRESS: &str = "localhost:5000";

/// Debian's.
pub(crate) fn start(machine: &Machine) -> Result {
    machine.inside(
        "apt-get install -y -qq --no-install-recommends docker-registry >/dev/null 2>&1
        systemctl disable --quiet --now docker-registry
        printf '%s\n' 'version: 0.1' 'storage: {filesystem: {rootdirectory: /var/lib/registry}}' \
            'http: {addr: 127.0.0.1:5000}' >/root/registry.yml
        systemd-run --quiet --unit registry docker-registry serve /root/registry.yml",
    )?;
    machine.wait_until("bash -c 'exec 3<>/dev/tcp/127.0.0.1/5000' 2>/dev/null")
}

/// Pushes an image under this name. Returns its reference by digest.
pub(crate) fn push(machine: &Machine, image: &str, name: &str) -> Result<String> {
    let name = format!("{ADDRESS}/{name}");
    let digest = machine.inside(&format!(
        "docker tag {image} {name}
        docker push {name} | sed -n 's/.* digest: \\(sha256:[0-9a-f]*\\) .*/\\1/p'
        docker image rm {name} >/dev/null"
    ))?;
    Ok(format!("{name}@{}", digest.trim()))
}

/// The files of `scripts/pin-images`, on a machine that reaches the registry.
pub(crate) struct Laptop<'a>(&'a Machine);

impl<'a> Laptop<'a> {
    /// All base images are `base:1` of the registry, because the shipped ones are unreachable here.
    pub(crate) fn on(machine: &'a Machine) -> Result<Self> {
        machine.inside("mkdir -p /root/laptop/scripts /root/laptop/docker")?;
        for name in ["scripts/pin-images", "docker/Dockerfile", "compose.yaml"] {
            machine.put(&repository().join(name), &format!("/root/laptop/{name}"))?;
        }
        machine.inside(&format!(
            "    cd /root/laptop
            sed -i 's|^\\(ARG [A-Z]*_IMAGE=\\).*|\\1{ADDRESS}/base:1|' docker/Dockerfile
            sed -i 's|\\(ROUTER_IMAGE:-\\)[^}}]*|\\1{ADDRESS}/base:1|' compose.yaml"
        ))?;
        Ok(Self(machine))
    }

    /// The pinned base images: three of the build, and the router's, as Compose reads them.
    pub(crate) fn pin(&self) -> Result<Vec<String>> {
        let images = self.0.inside(
            "    cd /root/laptop
            scripts/pin-images 2>/dev/null
            sed -n 's/^ARG [A-Z]*_IMAGE=//p' docker/Dockerfile
            docker compose config --images router | sort -u",
        )?;
        Ok(images.lines().map(str::to_owned).collect())
    }
}

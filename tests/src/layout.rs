//! The files of a stack: the shipped ones, with the stack's ports.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
};

use crate::{
    Bake, PortBlock, fault,
    stack::{program, repository},
};

/// A release that this machine has and the image lacks.
pub const NOT_IN_THE_IMAGE: &str = "not-in-the-image";

const COMMON_FILES: [&str; 4] = ["nginx.conf", "switch.conf", "public.conf", "control.conf"];

/// nginx's files for processes, with the ports replaced.
pub(crate) fn nginx_on_ports(directory: &Path, ports: &PortBlock) -> anyhow::Result<()> {
    fs::create_dir(directory.join("nginx"))?;
    for name in COMMON_FILES.into_iter().chain(["addresses.conf"]) {
        let text = fs::read_to_string(repository().join("nginx").join(name))?
            .replace(":8080", &format!(":{}", ports.router()))
            .replace(":8081", &format!(":{}", ports.blue()))
            .replace(":8082", &format!(":{}", ports.green()))
            .replace(":8083", &format!(":{}", ports.control()));
        fs::write(directory.join("nginx").join(name), text)?;
    }
    Ok(())
}

/// compose.yaml and nginx's files as shipped. `.env` has what differs.
pub(crate) fn compose(directory: &Path, ports: &PortBlock, project: &str) -> anyhow::Result<()> {
    fs::copy(
        repository().join("compose.yaml"),
        directory.join("compose.yaml"),
    )?;
    fs::create_dir(directory.join("nginx"))?;
    for name in COMMON_FILES
        .into_iter()
        .chain(["addresses.conf", "addresses.compose.conf"])
    {
        let name = Path::new("nginx").join(name);
        fs::copy(repository().join(&name), directory.join(&name))?;
    }
    for name in ["run/flags", "run/logs", "state", "secrets"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let owner = fs::metadata(directory)?;
    let mut variables = format!(
        "PROJECT={project}\nROUTER_PORT={}\nBLUE_PORT={}\nGREEN_PORT={}\nCONTROL_PORT={}\nMETRICS_PORT={}\nDEPLOYER_USER={}:{}\n",
        ports.router(),
        ports.blue(),
        ports.green(),
        ports.control(),
        ports.metrics(),
        owner.uid(),
        owner.gid()
    );
    if let Ok(image) = env::var("ROUTER_IMAGE") {
        variables.extend(["ROUTER_IMAGE=", &image, "\n"]);
    }
    fs::write(directory.join(".env"), variables)?;
    Ok(())
}

/// The shipped releases, and the second one again under the name of each fault.
pub(crate) fn models(directory: &Path) -> anyhow::Result<()> {
    let models = directory.join("models/sentiment");
    let shipped = repository().join("models/sentiment");
    fs::create_dir_all(&models)?;
    fs::copy(shipped.join("golden.jsonl"), models.join("golden.jsonl"))?;
    symlink(shipped.join("v1"), models.join("v1"))?;
    for version in fault::NAMES.into_iter().chain(["v2", NOT_IN_THE_IMAGE]) {
        symlink(shipped.join("v2"), models.join(version))?;
    }
    Ok(())
}

/// The fast gates. Tests of other gates name them.
pub(crate) const FEW_GATES: &str = "[gates]\nrun = [\"identity\", \"reachable\", \"smoke\"]\n";

/// deployer.toml: ports, and shorter waits than the defaults.
pub(crate) fn settings(
    directory: &Path,
    ports: &PortBlock,
    server: Option<&str>,
    Bake(bake): Bake,
) -> anyhow::Result<()> {
    let command = match server {
        Some(server) => format!("command = [\"{}\"]", program(server)?.display()),
        None => String::new(),
    };
    let settings = format!(
        r#"
[router]
url = "http://127.0.0.1:{router}"
control = "http://127.0.0.1:{control}"

[blue]
url = "http://127.0.0.1:{blue}"

[green]
url = "http://127.0.0.1:{green}"

[fleet.process]
{command}

{FEW_GATES}
[health]
interval = "300ms"

# Both releases share two cores with clients and whatever else runs, in builds that are hardly
# optimized, and the second one is the larger model.
[comparison]
negligible = "100ms"

[bake]
duration = "{bake}ms"
interval = "200ms"
negligible = "1m"
"#,
        router = ports.router(),
        control = ports.control(),
        blue = ports.blue(),
        green = ports.green(),
        bake = bake.as_millis(),
    );
    fs::write(directory.join("deployer.toml"), settings)?;
    Ok(())
}

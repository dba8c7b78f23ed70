//! Writes the files of a stack: the shipped files, with the stack's own ports.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
};

use crate::{BakeDuration, PortBlock, fault, repository};

/// A version that exists in the stack's models directory, and is missing in the image.
pub const VERSION_NOT_IN_IMAGE: &str = "not-in-the-image";

/// The names of the shipped files of nginx.
fn nginx_files() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(repository().join("nginx"))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A person may have a `tls.conf`.
        if path.extension().is_some_and(|it| it == "conf") && name != "tls.conf" {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// Writes nginx's files for a stack of processes, with the stack's ports instead of the shipped ones.
pub(crate) fn write_nginx_files(directory: &Path, ports: &PortBlock) -> anyhow::Result<()> {
    fs::create_dir(directory.join("nginx"))?;
    for name in nginx_files()? {
        let text = fs::read_to_string(repository().join("nginx").join(&name))?
            .replace(":8080", &format!(":{}", ports.router()))
            .replace(":8081", &format!(":{}", ports.blue()))
            .replace(":8082", &format!(":{}", ports.green()))
            .replace(":8083", &format!(":{}", ports.control()));
        fs::write(directory.join("nginx").join(name), text)?;
    }
    Ok(())
}

/// Copies `compose.yaml`, `server.env`, and nginx's files as they are shipped. `.env` sets the project, the ports, and the user.
pub(crate) fn write_compose_files(
    directory: &Path,
    ports: &PortBlock,
    project: &str,
) -> anyhow::Result<()> {
    for name in ["compose.yaml", "server.env"] {
        fs::copy(repository().join(name), directory.join(name))?;
    }
    fs::create_dir(directory.join("nginx"))?;
    for name in nginx_files()? {
        let name = Path::new("nginx").join(name);
        fs::copy(repository().join(&name), directory.join(&name))?;
    }
    for name in ["run/flags", "run/logs", "state", "secrets"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let owner = fs::metadata(directory)?;
    let mut variables = format!(
        "PROJECT={project}\nROUTER_PORT={}\nBLUE_PORT={}\nGREEN_PORT={}\nCONTROL_PORT={}\nMETRICS_PORT={}\nPAGE_PORT={}\nDEPLOYER_USER={}:{}\n",
        ports.router(),
        ports.blue(),
        ports.green(),
        ports.control(),
        ports.metrics(),
        ports.page(),
        owner.uid(),
        owner.gid()
    );
    if let Ok(image) = env::var("ROUTER_IMAGE") {
        variables.extend(["ROUTER_IMAGE=", &image, "\n"]);
    }
    fs::write(directory.join(".env"), variables)?;
    Ok(())
}

/// Links the shipped releases, and v2 once more under each faulty version.
pub(crate) fn link_models(directory: &Path) -> anyhow::Result<()> {
    let models = directory.join("models/sentiment");
    let shipped = repository().join("models/sentiment");
    fs::create_dir_all(&models)?;
    fs::copy(shipped.join("golden.jsonl"), models.join("golden.jsonl"))?;
    symlink(shipped.join("v1"), models.join("v1"))?;
    let good = ["v2", "v3", VERSION_NOT_IN_IMAGE].map(str::to_owned);
    for version in fault::versions().chain(good) {
        symlink(shipped.join("v2"), models.join(version))?;
    }
    Ok(())
}

/// Runs only the fast gates. A test of another gate sets `gates.run` itself.
pub(crate) const FAST_GATES: &str = "[gates]\nrun = [\"identity\", \"reachable\", \"smoke\"]\n";

/// Writes `deployer.toml` with the stack's ports and shorter waits than the defaults.
pub(crate) fn write_settings(
    directory: &Path,
    ports: &PortBlock,
    command: Option<&[&str]>,
    BakeDuration(bake): BakeDuration,
) -> anyhow::Result<()> {
    let command = match command {
        // A TOML array of basic strings is written like a JSON array of strings.
        Some(command) => format!("command = {}", serde_json::to_string(command)?),
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

{FAST_GATES}
[health]
interval = "300ms"

# Both releases, the clients, and other tests share two cores. The builds have little optimization, and the
# model of v2 is the larger one.
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

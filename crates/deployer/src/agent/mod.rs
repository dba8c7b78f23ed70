//! `deployer agent`: keeps one router of several.
//!
//! The agent starts nginx as its child, registers in the store, and reads
//! the truth. It opens the router when nginx obeys the truth, and closes it as [`RouterState`](crate::cluster::router_state)
//! says. A fence process closes the router if the agent cannot.

mod api;
mod boot_time;
mod fence;
mod fence_process;
mod follow;
mod keeper;
mod log;
mod nginx_process;
mod open_flag;
mod replaced_flags;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;

use self::{
    api::Api,
    follow::Follower,
    keeper::Keeper,
    log::note,
    nginx_process::{NginxCommand, Supervisor},
};
pub use self::{fence_process::FenceArguments, nginx_process::NginxArguments};
pub(crate) use self::{fence_process::run as run_fence, nginx_process::become_nginx};
use crate::{
    adapters::{
        connect_store,
        nginx::{control_port::ControlPort, flags::FlagDirectory},
        process::router_files,
        token_file::TokenFile,
    },
    cluster::router_state::RouterTiming,
    internal_api::{listen, protected},
    monitor::page::server::serve,
    shutdown::shutdown,
    store::is_name,
};

/// The longest time between two reads of the store.
const LONGEST_INTERVAL: Duration = Duration::from_millis(250);
/// How long the agent's own nginx may take to answer.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The flags of `deployer agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArguments {
    /// Name of this router: letters, digits, '-', '_', and '.'; each router has a name of its own
    #[arg(long, env = "ROUTER_NAME")]
    pub name: String,
    /// Address to listen at for deployers. Only they may reach it: the token travels in plain text
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8084")]
    pub listen: SocketAddr,
    /// URL at which deployers reach this agent
    #[arg(long, value_name = "URL", env = "ROUTER_ADVERTISE")]
    pub advertise: String,
    /// URL of the store (`deployer store`), or `kubernetes:NAME` for a ConfigMap of the pod's namespace
    #[arg(long, value_name = "URL", env = "ROUTER_STORE")]
    pub store: String,
    /// File with the token of deployers, agents, and the store: one random line
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// nginx
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    pub nginx: PathBuf,
    /// nginx's prefix: the agent creates flags/ and logs/ in it
    #[arg(long, value_name = "DIRECTORY", default_value = "run")]
    pub nginx_prefix: PathBuf,
    /// nginx's configuration, with open.cluster.conf in place of open.conf beside it
    #[arg(long, value_name = "FILE", default_value = "nginx/nginx.conf")]
    pub nginx_configuration: PathBuf,
    /// URL of nginx's control port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8083")]
    pub control: String,
    /// How long the router serves during a change without news of it; the same for all routers and deployers
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = humantime::parse_duration)]
    pub fence: Duration,
    /// How long nginx may take to finish its requests when the agent stops
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub stop_timeout: Duration,
}

/// Keeps the router until a stop signal.
pub async fn run(arguments: &AgentArguments) -> anyhow::Result<()> {
    /// How long the store may take when the agent ends.
    const UNREGISTER_PATIENCE: Duration = Duration::from_secs(2);

    let (configuration, prefix) = check(arguments)?;
    // Workers whose master was killed become children of the agent.
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).context("cannot become a subreaper")?;
    let timing = RouterTiming {
        fence: arguments.fence,
        abandoned_after: Duration::from_secs(10),
    };
    let token = TokenFile::open(&arguments.token_file)?;
    let timeout = STORE_TIMEOUT.min(arguments.fence.max(Duration::from_millis(500)));
    let store = connect_store(&arguments.store, &arguments.token_file, timeout)?;
    router_files::prepare(&prefix)?;
    let control = ControlPort::new(&arguments.control, CONTROL_TIMEOUT)?;
    let flags = FlagDirectory::new(prefix.join("flags"));
    let keeper = Keeper::new(&arguments.name, timing, flags, control);
    let keeper = Arc::new(keeper.context("cannot remove the flag `open`")?);
    let listener = listen("the agent", arguments.listen).await?;
    let api = Api::new(keeper.clone(), prefix.join("logs"), &arguments.control)?;
    let router = protected(api.routes(), token);
    let server = tokio::spawn(async move { serve(&listener, &router).await });

    let mut nginx = Supervisor::new(NginxCommand {
        program: arguments.nginx.clone(),
        prefix,
        configuration,
    });
    // Several questions fit into the time of the fence.
    let interval = LONGEST_INTERVAL.min(arguments.fence / 4);
    let url = arguments.advertise.trim_end_matches('/');
    let mut follower = Follower::new(&keeper, store.as_ref(), &arguments.name, url, interval);
    let stop = pin!(shutdown());
    let ended = tokio::select! {
        () = stop => Ok(()),
        other = follower.follow() => Err(other),
        () = nginx.supervise(&keeper) => Ok(()),
        () = keeper.keep_gate_always() => Ok(()),
    };
    note("stops: the router is closed, and nginx finishes its requests");
    keeper.terminate().await;
    nginx.stop(arguments.stop_timeout).await;
    follower.unregister(UNREGISTER_PATIENCE).await;
    server.abort();
    Ok(ended?)
}

/// Checks the arguments. Returns nginx's configuration and prefix as absolute paths.
fn check(arguments: &AgentArguments) -> anyhow::Result<(PathBuf, PathBuf)> {
    /// Bounds how long a change takes, and how long a router without news is wrong.
    const FENCE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

    ensure!(
        is_name(&arguments.name),
        "{:?} is not a router's name (--name): use 1 to 63 letters, digits, '-', '_', and '.', the first one a letter or digit",
        arguments.name
    );
    let [shortest, longest] = FENCE;
    ensure!(
        (shortest..=longest).contains(&arguments.fence),
        "--fence must be from {shortest:?} to {longest:?}"
    );
    let configuration = fs::canonicalize(&arguments.nginx_configuration)
        .with_context(|| format!("cannot find {}", arguments.nginx_configuration.display()))?;
    check_open_file(&configuration)?;
    fs::create_dir_all(&arguments.nginx_prefix)
        .and_then(|()| fs::canonicalize(&arguments.nginx_prefix))
        .with_context(|| format!("cannot create {}", arguments.nginx_prefix.display()))
        .map(|prefix| (configuration, prefix))
}

/// Fails unless nginx's files test the flag `open`: without the test a router could not be closed.
fn check_open_file(configuration: &Path) -> anyhow::Result<()> {
    let path = configuration.with_file_name("open.conf");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}: put open.cluster.conf there",
            path.display()
        )
    })?;
    let tests_flag = text.lines().any(|line| {
        line.trim_start()
            .starts_with("if (!-f $document_root/open)")
    });
    ensure!(
        tests_flag,
        "{} does not test the flag `open`, so this router could not be closed: copy or mount open.cluster.conf over it",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_open_file_of_clusters_is_accepted_and_that_of_one_machine_is_not() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nginx");
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("nginx.conf");
        let replace = |name: &str| {
            fs::copy(shipped.join(name), directory.path().join("open.conf")).unwrap();
        };
        assert!(check_open_file(&configuration).is_err());
        replace("open.conf");
        let error = check_open_file(&configuration).unwrap_err().to_string();
        assert!(error.contains("does not test the flag `open`"), "{error}");
        replace("open.cluster.conf");
        check_open_file(&configuration).unwrap();
    }
}

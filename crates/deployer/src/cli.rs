//! The command line. Parses only.

use std::{ffi::OsString, fmt, io::Write as _, path::PathBuf};

use clap::{
    Arg, ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    builder::NonEmptyStringValueParser,
};
use clap_complete::Shell;

use crate::{
    agent::{AgentArguments, FenceArguments, NginxArguments},
    color::Color,
    config::{DeployOverrides, GateName, GlobalOverrides},
    monitor::page::keys::Role,
    store::StoreArguments,
};

/// Blue-green deployment for model servers behind nginx.
///
/// Two colors run a model server each. The router sends all traffic to the active color. `deploy` starts a
/// release on the idle color, runs the gates on it, switches all traffic at once, and rolls back by itself if
/// the release is worse during the bake, the period under real traffic after the switch.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalOverrides,

    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Parses a command line, the program's name first. Exits the process if it is invalid.
    #[must_use]
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Self {
        let line: Vec<OsString> = line.into_iter().collect();
        let json = line.iter().any(|argument| argument == "--json");
        let matches = command().try_get_matches_from(line);
        let matches = matches.unwrap_or_else(|error| exit_with_error(&error, json));
        let mut arguments = match Self::from_arg_matches(&matches) {
            Ok(arguments) => arguments,
            Err(error) => exit_with_error(&error, json),
        };
        if let Some((_, behind)) = matches.subcommand() {
            let behind = behind.get_many::<String>(SET).unwrap_or_default();
            arguments.global.settings.extend(behind.cloned());
        }
        arguments
    }
}

/// Prints the error of clap, also as JSON with `--json`, and exits the process.
fn exit_with_error(error: &clap::Error, json: bool) -> ! {
    if json && error.use_stderr() {
        let object = serde_json::json!({
            "event": "ended",
            "error": error.render().to_string(),
            "exit_code": error.exit_code(),
        });
        // A closed pipe is not an error of the deployer.
        let _ = writeln!(std::io::stdout(), "{object}");
    }
    error.exit()
}

/// The clap identifier of `--set` after a subcommand.
const SET: &str = "set";

/// The whole command line. `--set` may stand before the subcommand, after it, or both.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command().mut_subcommands(|subcommand| {
        let set = Arg::new(SET)
            .long("set")
            .value_name("KEY=VALUE")
            .action(ArgAction::Append)
            .help_heading("Options of every command")
            .help("A setting for this run, named as in the settings file: `--set load.max_p99=1s`");
        subcommand.arg(set)
    })
}

const EXIT_CODES: &str = "\
Exit codes:
   0  promoted, or done
   1  unexpected error
   2  wrong arguments or settings; nothing was changed
  10  refused: traffic never moved
  20  rolled back: the release received traffic and lost it again
  30  halted: a person is needed; the message says for what
  75  another deployer holds the lock";

const DECISION_EXIT_CODES: &str = "\
Exit codes: 0 accepted, 10 declined, 75 the deployer at work does not answer, 2 as for deploy.";

const REJECT_EXIT_CODES: &str = "\
Exit codes: 0 ended as asked, 10 declined, 30 halted, 75 the deployer at work does not answer, 2 as for deploy.";

/// A decision about a deployment.
#[derive(Debug, Clone, Args)]
pub struct Decision {
    /// Identifier of the deployment [default: the one that is under way]
    pub id: Option<String>,
    /// Why, for the history, the report, and the notification
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub reason: String,
}

/// Parses the first digits of the digest of evidence.
fn evidence_digits(text: &str) -> Result<String, String> {
    const FEWEST: usize = 8;

    let digits = text.to_ascii_lowercase();
    if digits.len() < FEWEST || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!(
            "expected at least {FEWEST} hexadecimal digits, as `deployer status` shows them"
        ));
    }
    Ok(digits)
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start whatever does not run: the router and both colors
    Up,
    /// Start a release on the idle color, run the gates, switch all traffic to it, and bake
    #[command(after_help = EXIT_CODES)]
    Deploy {
        /// Version to deploy [default: the version that the idle color holds]
        version: Option<String>,
        /// Print the plan and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Deploy although the active color is down; gates that need the active release are skipped
        #[arg(long)]
        active_down: bool,
        /// Deploy although no window is open; needs --reason
        #[arg(long, requires = "reason")]
        outside_window: bool,
        /// Why this deployment cannot wait for a window; in the history and the report
        #[arg(long, value_name = "TEXT", requires = "outside_window", value_parser = NonEmptyStringValueParser::new())]
        reason: Option<String>,
        /// Flags that override settings.
        #[command(flatten)]
        overrides: Box<DeployOverrides>,
    },
    /// Complete a deployment, rollback, switch, or failover whose deployer was killed
    ///
    /// Rolls back a candidate that has traffic and did not finish its bake. With `--on-interrupt continue` the
    /// bake starts again. `deploy` and `rollback` do this first by themselves.
    #[command(after_help = EXIT_CODES)]
    Recover {
        /// Flags that override settings.
        #[command(flatten)]
        overrides: Box<DeployOverrides>,
    },
    /// Run the gates on the release of the idle color, without starting a server or moving traffic
    #[command(after_help = "Exit codes: 0 passed, 10 not passed, 2 and 75 as for deploy.")]
    Validate {
        /// Version that the idle color must run [default: the version that it holds]
        version: Option<String>,
        /// Run only these gates [default: gates.run of the settings file]
        #[arg(long, value_name = "GATES", value_delimiter = ',')]
        only: Vec<GateName>,
        /// Run all gates, also after one that does not pass
        #[arg(long)]
        keep_going: bool,
    },
    /// Show the verdicts of a deployment, and the path of its report
    Report {
        /// Identifier of the deployment [default: the last one]
        id: Option<String>,
    },
    /// Approve the deployment that waits, so that it goes on
    ///
    /// Approves the evidence that `deployer status` names. If it has changed since, the deployer declines. If the verdicts are
    /// older than `approval.fresh`, the gates run again after the approval, and the deployment asks once more.
    #[command(after_help = DECISION_EXIT_CODES)]
    Approve {
        /// What, and why.
        #[command(flatten)]
        decision: Decision,
        /// First digits of the digest of the evidence that you saw [default: what waits now]
        #[arg(long, value_name = "DIGEST", value_parser = evidence_digits)]
        evidence: Option<String>,
    },
    /// Refuse the candidate that waits for approval, or roll it back if it has the traffic
    #[command(after_help = REJECT_EXIT_CODES)]
    Reject {
        /// What, and why.
        #[command(flatten)]
        decision: Decision,
    },
    /// End the bake now, before its time, unless the candidate is failing
    #[command(after_help = DECISION_EXIT_CODES)]
    Promote {
        /// What, and why.
        #[command(flatten)]
        decision: Decision,
    },
    /// Move all traffic back to the previous release, at once
    ///
    /// A deployment that is under way is ended: its candidate is refused, or rolled back if it has the traffic. If the
    /// deployer at work does not answer within 0.5 s, traffic moves without it. With VERSION, that earlier release is
    /// deployed again, without the gates that compare it with the active one.
    #[command(after_help = EXIT_CODES)]
    Rollback {
        /// An earlier release, as `history` lists it [default: the release that the idle color holds]
        version: Option<String>,
        /// Why, for the history, the report, and the notification
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        reason: Option<String>,
    },
    /// End the deployment that is under way: refuse its candidate, or roll it back if it has the traffic
    #[command(after_help = EXIT_CODES)]
    Abort {
        /// Identifier of the deployment [default: the one that is under way]
        id: Option<String>,
        /// Why, for the history, the report, and the notification
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        reason: Option<String>,
    },
    /// Remove one of several routers that is gone for good, so that no deployment waits for it
    #[command(after_help = EXIT_CODES)]
    RemoveRouter {
        /// The router's name, as `deployer status` lists it
        name: String,
    },
    /// Move all traffic to a healthy color, without gates or a bake
    #[command(after_help = EXIT_CODES)]
    Switch {
        /// The color that receives all traffic
        color: Color,
    },
    /// Show which color is active and what each color serves
    Status {
        /// Refresh every two seconds
        #[arg(long)]
        watch: bool,
    },
    /// Show who changed what, when, and why
    #[command(after_help = "Exit codes: 0 shown, or intact; 1 the chain of the history is broken.")]
    History {
        /// Check that no line was edited, removed, or added, and that a line has the SHA-256 HASH, such as that of a
        /// notification
        #[arg(long, value_name = "HASH", num_args = 0..=1, default_missing_value = "")]
        verify: Option<String>,
    },
    /// Find problems of this installation, and say how to solve them
    #[command(after_help = "Exit codes: 0 no problem, 1 problems found.")]
    Doctor {
        /// Check only settings, test inputs, and the files of router and Compose; ask no engine and no server
        #[arg(long)]
        offline: bool,
    },
    /// Check both colors all the time: send alerts, serve the metrics and the page, and remove the fit flag of a standby that is
    /// down
    Monitor,
    /// Send a test alert to every receiver
    AlertTest,
    /// Make a key to the page for a person, print it once, and keep its digest in the file page.keys
    PageKey {
        /// Name of the person, as the history shows it
        name: String,
        /// Whether the person may see, or also act
        #[arg(long)]
        role: Role,
    },
    /// Print a link that signs in to the page once, within 5 min
    PageLink,
    /// Stop the monitor, the router, and both colors
    Down,
    /// Start and keep one router of several
    ///
    /// Starts nginx, registers in the store, and opens the router when nginx obeys what the store says. A router that is not
    /// open answers 503 with `Connection: close`. During a change the router closes itself if it hears nothing for the time
    /// of --fence; at any other time it serves on without store or deployer. SIGTERM closes the router, lets nginx finish
    /// its requests, and unregisters the router.
    Agent(Box<AgentArguments>),
    /// Hold what all routers must do, for routers on plain machines
    ///
    /// The store is one process with one file: each write compares the version, and is on the disk before it is answered.
    /// While the store is away, routers serve on, and no traffic can be moved. Run it as a service that is
    /// started again when it ends.
    Store(StoreArguments),
    /// Close a router when its agent cannot
    #[command(hide = true)]
    AgentFence(FenceArguments),
    /// Become nginx
    #[command(hide = true)]
    AgentNginx(NginxArguments),
    /// Print shell completions
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages
    Man {
        /// Directory for the pages
        #[arg(default_value = ".")]
        directory: PathBuf,
    },
}

impl Command {
    /// Whether the command may end a deployment, or move traffic.
    #[must_use]
    pub fn may_end_deployment(&self) -> bool {
        match self {
            Self::Deploy { dry_run, .. } => !dry_run,
            Self::Recover { .. }
            | Self::Rollback { .. }
            | Self::Abort { .. }
            | Self::Reject { .. }
            | Self::Switch { .. } => true,
            _ => false,
        }
    }
}

/// The command as the user typed it, for the lock and for messages.
impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Up => "up",
            Self::Deploy {
                version: Some(version),
                ..
            } => return write!(formatter, "deploy {version}"),
            Self::Deploy { version: None, .. } => "deploy",
            Self::Rollback {
                version: Some(version),
                ..
            } => return write!(formatter, "rollback {version}"),
            Self::Rollback { version: None, .. } => "rollback",
            Self::Abort { .. } => "abort",
            Self::Approve { .. } => "approve",
            Self::Reject { .. } => "reject",
            Self::Promote { .. } => "promote",
            Self::RemoveRouter { name } => return write!(formatter, "remove-router {name}"),
            Self::Switch { color } => return write!(formatter, "switch {color}"),
            Self::Validate { .. } => "validate",
            Self::Report { .. } => "report",
            Self::Recover { .. } => "recover",
            Self::Status { .. } => "status",
            Self::History { .. } => "history",
            Self::Doctor { .. } => "doctor",
            Self::Monitor => "monitor",
            Self::AlertTest => "alert-test",
            Self::PageKey { .. } => "page-key",
            Self::PageLink => "page-link",
            Self::Down => "down",
            Self::Agent(_) => "agent",
            Self::Store(_) => "store",
            Self::AgentFence(_) => "agent-fence",
            Self::AgentNginx(_) => "agent-nginx",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        })
    }
}

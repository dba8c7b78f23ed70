//! The command line. It only says what is wanted; nothing happens here.

use std::{ffi::OsString, io::Write as _, path::PathBuf};

use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    color::Color,
    config::{DeployOverrides, GateName, GlobalOverrides},
};

/// Blue-green deployment for model servers behind nginx.
///
/// Two colors run a model server each; the router sends all traffic to the active one. `deploy`
/// puts a release on the idle color, proves it there, switches all traffic at once, watches, and
/// switches back by itself if the release is worse.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalOverrides,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Reads a command line, the program's name first; ends the process when it makes no sense.
    #[must_use]
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Self {
        let line: Vec<OsString> = line.into_iter().collect();
        let json = line.iter().any(|argument| argument == "--json");
        let matches = command().try_get_matches_from(line);
        let matches = matches.unwrap_or_else(|error| give_up(&error, json));
        let mut arguments = match Self::from_arg_matches(&matches) {
            Ok(arguments) => arguments,
            Err(error) => give_up(&error, json),
        };
        if let Some((_, behind)) = matches.subcommand() {
            let behind = behind.get_many::<String>(SET).unwrap_or_default();
            arguments.global.settings.extend(behind.cloned());
        }
        arguments
    }
}

/// Ends the process with what clap has to say, for programs on standard output as well.
fn give_up(error: &clap::Error, json: bool) -> ! {
    if json && error.use_stderr() {
        let object = serde_json::json!({
            "event": "ended",
            "error": error.render().to_string(),
            "exit_code": error.exit_code(),
        });
        // A reader that has gone away is not our error.
        let _ = writeln!(std::io::stdout(), "{object}");
    }
    error.exit()
}

/// The identifier of `--set` behind a subcommand.
const SET: &str = "set";

/// The whole command line. `--set` stands before the subcommand, behind it, or both.
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
   2  wrong arguments or settings; nothing was touched
  10  refused: traffic never moved
  20  rolled back: the release had traffic and lost it again
  30  halted: a person is needed
  75  another deployer is at work";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the router and both colors, where they are not running
    Up,
    /// Put a release on the idle color, prove it, switch to it, watch it
    #[command(after_help = EXIT_CODES)]
    Deploy {
        /// The version to deploy [default: the one that the idle color holds]
        version: Option<String>,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Ship a fix although the active color is down: gates that compare with it are left out
        #[arg(long)]
        active_down: bool,
        /// Flags that replace figures of the settings file.
        #[command(flatten)]
        overrides: Box<DeployOverrides>,
    },
    /// Bring a deployment to an end whose deployer was killed
    ///
    /// A candidate that has the traffic was not watched to the end, so it loses it; with
    /// `--on-interrupt continue` it is watched again. `deploy` and `rollback` do this first by
    /// themselves.
    #[command(after_help = EXIT_CODES)]
    Recover {
        /// Flags that replace figures of the settings file.
        #[command(flatten)]
        overrides: Box<DeployOverrides>,
    },
    /// Put the gates to what the idle color runs; nothing is started and no traffic moves
    #[command(after_help = "Exit codes: 0 passed, 10 not passed.")]
    Validate {
        /// The version that it should be [default: the one that the idle color holds]
        version: Option<String>,
        /// Ask these gates alone [default: those of gates.run in the settings file]
        #[arg(long, value_name = "GATES", value_delimiter = ',')]
        only: Vec<GateName>,
        /// Ask all of them, also after one that is not passed
        #[arg(long)]
        keep_going: bool,
    },
    /// Show how a deployment went, and where its report lies
    Report {
        /// The deployment [default: the last one]
        id: Option<String>,
        /// Open the report in the browser
        #[arg(long)]
        open: bool,
    },
    /// Give all traffic back to the release before this one, at once
    Rollback,
    /// Send all traffic to a color that is healthy, without proving or watching it
    Switch {
        /// The color that gets all traffic
        color: Color,
    },
    /// Show what each color serves and where traffic goes
    Status {
        /// Show it again every two seconds
        #[arg(long)]
        watch: bool,
    },
    /// Show what was done, by whom and why
    History,
    /// Look for what is wrong with this installation, and say what to do about it
    #[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is.")]
    Doctor,
    /// Watch both colors until told to stop: alert, keep a sick standby from standing in
    Watch,
    /// Send an alert that is none to everybody who would get one
    AlertTest,
    /// Stop the router and both colors
    Down,
    /// Print a shell's completions of this command
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages
    Man {
        /// Where to
        #[arg(default_value = ".")]
        directory: PathBuf,
    },
}

impl Command {
    /// The command in the words in which it was given.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Up => "up".to_owned(),
            Self::Deploy {
                version: Some(version),
                ..
            } => format!("deploy {version}"),
            Self::Deploy { version: None, .. } => "deploy".to_owned(),
            Self::Rollback => "rollback".to_owned(),
            Self::Switch { color } => format!("switch {color}"),
            Self::Validate { .. } => "validate".to_owned(),
            Self::Report { .. } => "report".to_owned(),
            Self::Recover { .. } => "recover".to_owned(),
            Self::Status { .. } => "status".to_owned(),
            Self::History => "history".to_owned(),
            Self::Doctor => "doctor".to_owned(),
            Self::Watch => "watch".to_owned(),
            Self::AlertTest => "alert-test".to_owned(),
            Self::Down => "down".to_owned(),
            Self::Completions { .. } => "completions".to_owned(),
            Self::Man { .. } => "man".to_owned(),
        }
    }
}

//! The command line of the model server.

use std::{
    convert::identity, env, future::Future, io::Write as _, path::PathBuf, process::ExitCode,
    time::Duration,
};

use anyhow::anyhow;
use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Resettable,
    error::ErrorKind,
};
use model_server::{
    HealthcheckArguments, MeasureArguments, ServeArguments, healthcheck, logging, measure, run,
    settings_template, with_settings_file,
};
use tokio::runtime::Runtime;

// A request allocates a few dozen small blocks on one thread and frees some of them on another, which is slow with
// the C library's allocator. mimalloc also returns memory to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serve one release of a model over HTTP
///
/// GET /health returns 200 with the served release and its counters, or 503 with the reason while the release is
/// loading, cannot be served, or the server drains. POST /predict takes a JSON object with a text, and returns the
/// most likely label and its probability. GET /metrics is for Prometheus.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,

    /// File of settings such as server.env: NAME=VALUE lines; flags and environment override it
    #[arg(long, value_name = "PATH")]
    settings: Option<PathBuf>,

    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Request /health from a running server: exit code 0 if it is healthy, 1 if not
    Healthcheck(HealthcheckArguments),

    /// Print all settings with their defaults, in the format of server.env
    Settings,

    /// Run the model on texts without a server, and print texts per second
    Measure(Box<MeasureArguments>),
}

const EXAMPLES: &str = "\
Examples:
  MODEL_VERSION=v1 model-server
  model-server --model-version v2 --port 8082 --log-format json
  model-server --settings server.env --model-version v2
  model-server healthcheck --port 8082
  curl localhost:8081/predict -H 'content-type: application/json' -d '{\"text\": \"a fine film\"}'

RUST_LOG sets the level of the log on standard error (default info).

Exit codes: 0 stopped by a signal; 1 the release cannot be served, the port is in use, or
requests were cut at the hard stop; 2 a setting is missing or invalid.";

fn main() -> ExitCode {
    let command = with_settings(without_empty_variables(CommandLine::command()));
    let matches = command.get_matches();
    let line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match line.command {
        Some(Command::Healthcheck(arguments)) => block_on(async {
            let answer = healthcheck(arguments).await?;
            Ok(writeln!(std::io::stdout(), "{answer}")?)
        }),
        Some(Command::Measure(arguments)) => measure(*arguments)
            .map_err(Into::into)
            .and_then(|rate| Ok(writeln!(std::io::stdout(), "{rate:.1} texts/s")?)),
        Some(Command::Settings) => {
            let template = settings_template(&CommandLine::command());
            write!(std::io::stdout(), "{template}").map_err(Into::into)
        }
        None => {
            let settings = line.serve.resolve().unwrap_or_else(|error| {
                CommandLine::command()
                    .error(ErrorKind::MissingRequiredArgument, error)
                    .exit()
            });
            // Dropped before the error below is printed, so that the log comes first.
            let _log = logging::start(settings.log.format);
            block_on(async { Ok(run(settings, identity).await?) })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each message contains its cause. If standard error is closed, the exit code must suffice.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Treats an empty variable as unset. Compose passes it for a variable that is empty in `.env`.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(env::var_os);
        if value.is_some_and(|value| value.is_empty()) {
            argument.env(Resettable::Reset)
        } else {
            argument
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// Applies the file of `--settings`. Ends the program if it cannot be used.
fn with_settings(command: clap::Command) -> clap::Command {
    // The file changes defaults, so its path must be known before the arguments are parsed for good.
    let early = command.clone().ignore_errors(true);
    let matches = early.try_get_matches().ok();
    let path = matches.and_then(|matches| matches.get_one::<PathBuf>("settings").cloned());
    match path {
        None => command,
        Some(path) => with_settings_file(&command, &path).unwrap_or_else(|error| {
            CommandLine::command()
                .error(ErrorKind::ValueValidation, error)
                .exit()
        }),
    }
}

/// Runs `work` to its end. Does not wait for threads that it left behind: an interrupted load, or a forward pass
/// beyond the hard stop.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime =
        Runtime::new().map_err(|error| anyhow!("cannot start the async runtime: {error}"))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

//! A file of settings: `NAME=VALUE` lines, in the format of Compose's `env_file`.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, error::ErrorKind};
use thiserror::Error;

/// Why a file of settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsFileError {
    /// The file cannot be read.
    #[error("cannot read the settings in {path}: {source}")]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is invalid.
    #[error("line {line} of {path}: {problem}")]
    Line {
        /// The path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it, and what was expected.
        problem: String,
    },
}

/// Makes the settings of a file the defaults of a command's arguments. Flags and environment variables override them.
///
/// A setting has the name of its environment variable. Blank lines, comments (`#`), and settings without a value are
/// ignored. Fails at the first line that is not a setting, has an unknown name, or has an invalid value.
pub fn with_settings_file(command: &Command, path: &Path) -> Result<Command, SettingsFileError> {
    let content = fs::read_to_string(path).map_err(|source| SettingsFileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let mut with_defaults = command.clone();
    for (index, line) in content.lines().enumerate() {
        let setting = parse_line(line).and_then(|setting| match setting {
            Some((name, value)) => check(command, name, value).map(Some),
            None => Ok(None),
        });
        let setting = setting.map_err(|problem| SettingsFileError::Line {
            path: path.to_owned(),
            line: index + 1,
            problem,
        })?;
        if let Some((id, value)) = setting {
            // clap keeps defaults for the life of the process.
            let value: &'static str = value.to_owned().leak();
            with_defaults = with_defaults.mut_arg(id, |argument| argument.default_value(value));
        }
    }
    Ok(with_defaults)
}

/// Returns a file of all settings as comments, with their meaning and their defaults.
#[must_use]
pub fn settings_template(command: &Command) -> String {
    let mut template = "\
# Settings of the model server, for `docker compose` and for `model-server --settings server.env`.
# Copy what you change to server.env, without the #. Made by `model-server settings`.
# The image has its own defaults for HOST, MODEL_ROOT, and ENGINE; compose.yaml sets PORT and MODEL_VERSION.
"
    .to_owned();
    for argument in command.get_arguments() {
        let Some(name) = argument.get_env() else {
            continue;
        };
        let help = argument.get_help().map(ToString::to_string);
        let defaults = argument.get_default_values();
        let default = defaults.first().map(|value| value.to_string_lossy());
        // Writing to a string does not fail.
        let _ = write!(
            template,
            "\n# {}\n#{}={}\n",
            help.unwrap_or_default(),
            name.to_string_lossy(),
            default.unwrap_or_default()
        );
    }
    template
}

/// Returns the name and the value of a setting; `None` for a blank line, a comment, or an empty value.
fn parse_line(line: &str) -> Result<Option<(&str, &str)>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line
        .split_once('=')
        .ok_or_else(|| format!("expected NAME=VALUE, got {line:?}"))?;
    let value = value.trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| {
        let inner = value.strip_prefix(quote)?;
        inner.split_once(quote).map(|(inner, _)| inner)
    });
    let value = quoted.unwrap_or_else(|| match value.split_once(" #") {
        Some((value, _comment)) => value.trim_end(),
        None => value,
    });
    Ok((!value.is_empty()).then_some((name.trim_end(), value)))
}

/// Returns the ID of the argument that a setting belongs to, if its value is valid.
fn check<'a>(command: &Command, name: &str, value: &'a str) -> Result<(clap::Id, &'a str), String> {
    let is_it = |argument: &&Arg| argument.get_env().is_some_and(|env| env == name);
    let Some(argument) = command.get_arguments().find(is_it) else {
        let names = command.get_arguments().filter_map(Arg::get_env);
        let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
        return Err(format!(
            "unknown setting {name}; expected one of {}",
            names.join(", ")
        ));
    };
    let flag = format!("--{}={value}", argument.get_long().unwrap_or_default());
    match command
        .clone()
        .try_get_matches_from(["model-server", &flag])
    {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ValueValidation | ErrorKind::InvalidValue
            ) =>
        {
            let message = error.to_string();
            let reason = message.lines().next().unwrap_or_default();
            Err(reason.trim_start_matches("error: ").to_owned())
        }
        // Other problems concern other arguments.
        _ => Ok((argument.get_id().clone(), value)),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::config::{ServeArguments, Settings};

    fn command() -> Command {
        ServeArguments::augment_args(Command::new("model-server"))
    }

    fn with_file(content: &str) -> Result<Command, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        with_settings_file(&command(), file.path()).map_err(|error| error.to_string())
    }

    fn resolve(content: &str, flags: &[&str]) -> Settings {
        let arguments = [&["model-server", "--model-version=v1"], flags].concat();
        let matches = with_file(content).unwrap().get_matches_from(arguments);
        let arguments = ServeArguments::from_arg_matches(&matches).unwrap();
        arguments.resolve().unwrap()
    }

    #[test]
    fn settings_file_changes_defaults_and_flags_override_it() {
        let content = "# comment\n\nQUEUE_CAPACITY=7 # few\nMODEL_NAME=\"other\"\nREQUEST_LOG=\n";
        let settings = resolve(content, &[]);
        assert_eq!(settings.limits.queue_capacity.get(), 7);
        assert_eq!(settings.model.name, "other");
        let settings = resolve(content, &["--queue-capacity=8"]);
        assert_eq!(settings.limits.queue_capacity.get(), 8);
    }

    #[test]
    fn invalid_line_is_named_with_its_number() {
        for (content, expected) in [
            ("PORT=1\nQUEUE_CAPACTIY=7", "line 2 of"),
            (
                "QUEUE_CAPACTIY=7",
                "unknown setting QUEUE_CAPACTIY; expected one of MODEL_NAME,",
            ),
            ("QUEUE_CAPACITY=0", "invalid value '0'"),
            ("LOG_FORMAT=xml", "invalid value 'xml'"),
            ("\n\nPORT", "line 3 of"),
            ("PORT", "expected NAME=VALUE, got \"PORT\""),
        ] {
            let error = with_file(content).map(drop).unwrap_err();
            assert!(error.contains(expected), "{content}: {error}");
        }
    }

    #[test]
    fn committed_template_is_the_generated_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../server.env.example");
        let committed = fs::read_to_string(path).unwrap();
        assert_eq!(
            committed,
            settings_template(&command()),
            "run `target/debug/model-server settings > server.env.example`"
        );
    }
}

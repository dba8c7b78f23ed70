//! The file `.env`, which Compose and people read too.

use std::{fs, io, path::Path};

use crate::state::atomic_file;

/// The value of `NAME=value` as Compose reads it: the last one of several; `None` if it is empty.
pub(super) fn read_variable(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

/// Sets or removes variables atomically, and keeps every other line.
pub(super) fn write_variables(path: &Path, variables: &[(&str, Option<&str>)]) -> io::Result<()> {
    // Replaces the target of a symbolic link, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let assigns = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default();
        line.contains('=') && variables.iter().any(|(variable, _)| *variable == name)
    };
    let mut written: String = text
        .lines()
        .filter(|line| !assigns(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (name, value) in variables {
        if let Some(value) = value {
            written.extend([name, "=", value, "\n"]);
        }
    }
    atomic_file::replace(path, &written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn setting_a_variable_keeps_other_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(
            &path,
            "# ours\nROUTER_PORT=80\nBLUE_VERSION=v1\nBLUE_VERSION_NOTE=x",
        )
        .unwrap();
        let set = [("BLUE_VERSION", Some("v2")), ("GREEN_VERSION", Some("v3"))];
        write_variables(&path, &set).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# ours\nROUTER_PORT=80\nBLUE_VERSION_NOTE=x\nBLUE_VERSION=v2\nGREEN_VERSION=v3\n"
        );
        write_variables(&path, &[("BLUE_VERSION", None)]).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# ours\nROUTER_PORT=80\nBLUE_VERSION_NOTE=x\nGREEN_VERSION=v3\n"
        );
    }

    #[test]
    fn variable_is_read_like_compose_reads_it() {
        let text = "BLUE_VERSION=v1\nBLUE_VERSION=\"v2\"\nGREEN_VERSION=\n";
        assert_eq!(read_variable(text, "BLUE_VERSION").as_deref(), Some("v2"));
        assert_eq!(read_variable(text, "GREEN_VERSION"), None);
        assert_eq!(read_variable(text, "BLUE"), None);
    }

    #[test]
    fn variables_file_keeps_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(&path, "SECRET=x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write_variables(&path, &[("BLUE_VERSION", Some("v2"))]).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

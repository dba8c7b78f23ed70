//! The directories and logs of nginx. No other user may forge a line of a log, which decides verdicts, or a flag.

use std::{
    fs::{self, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use crate::ports::PortError;

const DIRECTORIES: [&str; 2] = ["flags", "logs"];
/// nginx creates a missing log readable for everybody.
const LOGS: [&str; 3] = ["logs/access.log", "logs/shadow.log", "logs/error.log"];

/// Creates what is missing below nginx's prefix, and corrects its permissions.
pub(crate) fn prepare(prefix: &Path) -> Result<(), PortError> {
    let prepare_all = |names: &[&str], prepare: fn(&Path) -> io::Result<()>| {
        names.iter().try_for_each(|name| {
            let path = prefix.join(name);
            prepare(&path).map_err(|error| {
                let message = format!(
                    "cannot create {} for this user alone: {error}",
                    path.display()
                );
                PortError::of_file(&error, message)
            })
        })
    };
    prepare_all(&DIRECTORIES, directory)?;
    prepare_all(&LOGS, log)
}

fn directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o750))
}

fn log(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(0o640).open(path)?;
    file.set_permissions(Permissions::from_mode(0o640))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_logs_are_closed_to_other_users() {
        let prefix = tempfile::tempdir().unwrap();
        // An earlier version created them like this.
        fs::create_dir(prefix.path().join("logs")).unwrap();
        fs::set_permissions(prefix.path().join("logs"), Permissions::from_mode(0o777)).unwrap();
        fs::write(prefix.path().join(LOGS[0]), "line\n").unwrap();
        prepare(prefix.path()).unwrap();
        let mode = |name: &&str| {
            let metadata = fs::metadata(prefix.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o7777
        };
        assert!(DIRECTORIES.iter().map(mode).all(|it| it == 0o750));
        assert!(LOGS.iter().map(mode).all(|it| it == 0o640));
        assert_eq!(
            fs::read_to_string(prefix.path().join(LOGS[0])).unwrap(),
            "line\n"
        );
    }
}

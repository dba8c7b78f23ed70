//! Which processes listen on a port of this machine.

use std::{fs, path::PathBuf};

/// The processes that listen on a TCP port, as `nginx (process 12)`. Of processes that this user may not
/// inspect, only the user is named.
pub(crate) fn on(port: u16) -> Vec<String> {
    let mut found: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            let lines = table.lines().skip(1);
            lines
                .filter_map(|line| socket(line, port))
                .map(|(inode, user)| owner(&inode).unwrap_or_else(|| hidden(&user)))
                .collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The inode and the user of a socket that listens on `port`, from a line of `/proc/net/tcp` (proc(5)).
fn socket(line: &str, port: u16) -> Option<(String, String)> {
    const LISTEN: &str = "0A";

    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local, 16) == Ok(port);
    let (user, inode) = (fields.get(7)?, fields.get(9)?);
    listens.then(|| ((*inode).to_owned(), (*user).to_owned()))
}

/// Only root may list the open files of other users' processes.
fn hidden(user: &str) -> String {
    format!("a process of user {user} that this user may not look into (`sudo ss -ltnp` names it)")
}

/// The first process that has this socket open. nginx's workers share theirs.
fn owner(inode: &str) -> Option<String> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .any(|file| file == socket)
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (process {pid})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let [only] = &on(port)[..] else {
            panic!("{:?}", on(port));
        };
        let test_process = format!("(process {})", std::process::id());
        assert!(only.ends_with(&test_process), "{only}");
        drop(listener);
        assert_eq!(on(port), [""; 0]);
    }
}

//! Which processes listen on a port of this machine.

use std::net::SocketAddr;

use procfs::{
    net::{TcpState, tcp, tcp6},
    process::{FDTarget, Process, all_processes},
};

/// The processes that listen on a TCP port, as `nginx (process 12)`. If this user may not inspect a process, its user is
/// named instead.
pub(crate) fn on(port: u16) -> Vec<String> {
    matching(|address| address.port() == port)
}

/// The processes that listen at an address of this machine, as a part of a sentence; `None` if no process listens, or the
/// address is on another machine.
pub(crate) fn at(url: &str) -> Option<String> {
    let port = local_port(url)?;
    let found = matching(|address| {
        let ip = address.ip();
        address.port() == port && (ip.is_loopback() || ip.is_unspecified())
    });
    (!found.is_empty()).then(|| found.join(", "))
}

/// The port of an address of this machine; `None` for another machine.
pub(crate) fn local_port(url: &str) -> Option<u16> {
    let url = reqwest::Url::parse(url).ok()?;
    let here = matches!(
        url.host_str(),
        Some("127.0.0.1" | "localhost" | "[::1]" | "0.0.0.0")
    );
    url.port_or_known_default().filter(|_| here)
}

fn matching(wanted: impl Fn(SocketAddr) -> bool) -> Vec<String> {
    let sockets = [tcp(), tcp6()].into_iter().flatten().flatten();
    let mut found: Vec<String> = sockets
        .filter(|socket| socket.state == TcpState::Listen && wanted(socket.local_address))
        .map(|socket| owner(socket.inode).unwrap_or_else(|| hidden(socket.uid)))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Only root may list the open files of other users' processes.
fn hidden(user: u32) -> String {
    format!("a process of user {user} that this user may not look into (`sudo ss -ltnp` names it)")
}

/// The first process that has this socket open. nginx's workers share theirs.
fn owner(inode: u64) -> Option<String> {
    let mut processes: Vec<Process> = all_processes().ok()?.filter_map(Result::ok).collect();
    processes.sort_unstable_by_key(Process::pid);
    let has_it = |process: &Process| {
        let mut files = process.fd().into_iter().flatten().filter_map(Result::ok);
        files.any(|file| file.target == FDTarget::Socket(inode))
    };
    let process = processes.into_iter().find(has_it)?;
    let name = process.stat().ok()?.comm;
    Some(format!("{name} (process {})", process.pid()))
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

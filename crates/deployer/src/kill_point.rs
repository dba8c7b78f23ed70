//! Kill points: places at which tests kill the deployer, around every journal entry and every flag change.
//!
//! A release build has none (`tests/tests/images.rs` checks the shipped program). A build with debug assertions
//! reads two variables. `DEPLOYER_KILL_POINTS` names a file to which each passed point is added.
//! `DEPLOYER_KILL_AT` names the point at which the process kills itself with SIGKILL. The second pass of a
//! point is called `NAME#2`, the third `NAME#3`, and so on.
//!
//! The crate's own tests kill a deployer inside their process: see `in_process`.

use std::fmt::Display;

/// Passes the kill point `name`.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_name: impl Display) {}

/// Passes the kill point `name`.
#[cfg(debug_assertions)]
pub(crate) fn pass(name: impl Display) {
    use std::{env, fs::OpenOptions, io::Write as _};

    use rustix::process::{Signal, getpid, kill_process};

    let name = name.to_string();
    #[cfg(test)]
    in_process::pass(&name);
    let name = numbered(name);
    if let Some(list) = env::var_os("DEPLOYER_KILL_POINTS") {
        let file = OpenOptions::new().create(true).append(true).open(list);
        // A test that reads the list notices a missing point.
        let _ = file.and_then(|mut file| writeln!(file, "{name}"));
    }
    if env::var("DEPLOYER_KILL_AT").is_ok_and(|at| at == name) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

#[cfg(debug_assertions)]
fn numbered(name: String) -> String {
    use std::{
        collections::BTreeMap,
        sync::{Mutex, PoisonError},
    };

    static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let times = passed.entry(name.clone()).or_default();
    *times += 1;
    match *times {
        1 => name,
        times => format!("{name}#{times}"),
    }
}

/// Kill points for tests that run a command inside their own process.
#[cfg(all(test, debug_assertions))]
pub(crate) mod in_process {
    use std::cell::RefCell;

    /// Receives the name of each kill point, and kills the command by a panic.
    type OnPass = Box<dyn FnMut(&str)>;

    thread_local! {
        static ON_PASS: RefCell<Option<OnPass>> = const { RefCell::new(None) };
    }

    /// Calls `on_pass` at each kill point that this thread passes, until the guard is dropped.
    pub(crate) fn observe(on_pass: impl FnMut(&str) + 'static) -> Observed {
        ON_PASS.set(Some(Box::new(on_pass)));
        Observed
    }

    /// Ends the observation when it is dropped.
    pub(crate) struct Observed;

    impl Drop for Observed {
        fn drop(&mut self) {
            ON_PASS.set(None);
        }
    }

    pub(super) fn pass(name: &str) {
        ON_PASS.with_borrow_mut(|on_pass| {
            if let Some(on_pass) = on_pass {
                on_pass(name);
            }
        });
    }
}

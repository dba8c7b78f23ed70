//! Where tests end the deployer: around every entry of the journal and every change of a flag.
//!
//! A release build has none of this (`tests/tests/images.rs` checks the shipped program). A build with debug
//! assertions reads two variables: `DEPLOYER_KILL_POINTS` names a file that each point passed is added
//! to, and `DEPLOYER_KILL_AT` the point at which the process ends itself by SIGKILL. A point that is
//! passed again is named `NAME#2`, then `NAME#3` and so on.
//!
//! The crate's own tests end a deployer inside their process instead: see `in_process` below.

use std::fmt::Display;

/// Passes the point that is named so.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_name: impl Display) {}

/// Passes the point that is named so.
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
        // Whoever asks for the list finds it lacking.
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

    /// Called with the name of each kill point; ends the command by a panic.
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

//! The `deployer` command.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    deployer::run(deployer::cli::Arguments::read(std::env::args_os())).await
}

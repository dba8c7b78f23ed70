//! The `deployer` command.

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    deployer::run(deployer::cli::Arguments::parse()).await
}

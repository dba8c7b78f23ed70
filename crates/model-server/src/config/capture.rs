use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::RangedU64ValueParser};

use crate::config::parsers::path;

/// The sample of the texts that clients send to `/predict`.
#[derive(Debug, Clone, Args)]
pub struct CaptureSettings {
    /// Directory for a random sample of the texts that clients send to /predict, one file for each start of the server
    /// [default: no sample]
    #[arg(
        long = "capture-directory",
        env = "CAPTURE_DIRECTORY",
        value_name = "PATH",
        value_parser = path()
    )]
    pub directory: Option<PathBuf>,

    /// Texts in the sample, each of at most 16 KiB with its pair: from 1 to 10000
    #[arg(
        long = "capture-inputs",
        env = "CAPTURE_INPUTS",
        default_value = "500",
        value_name = "COUNT",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000)
    )]
    pub inputs: usize,

    /// What is replaced in the sample: digits-and-emails (digits by 0, words with an @ by `[email]`), or nothing
    #[arg(
        long = "capture-redact",
        env = "CAPTURE_REDACT",
        default_value = "digits-and-emails",
        value_name = "WHAT"
    )]
    pub redact: Redaction,
}

/// What is replaced in captured texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Redaction {
    /// Digits and e-mail addresses. Names and other personal data stay.
    DigitsAndEmails,
    /// Nothing.
    Nothing,
}

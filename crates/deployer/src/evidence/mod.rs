//! What verdicts are made of: values and statistics, without input, output, or a clock.

pub mod answering_releases;
pub mod details;
pub mod difference;
pub mod ending_counts;
pub mod endings;
pub mod latency;
pub mod load;
pub mod passed_over;
pub mod request;
pub mod sample;
pub mod statistics;
pub mod stream;
pub mod tally;
pub mod verdict;

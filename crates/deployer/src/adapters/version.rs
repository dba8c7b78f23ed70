//! Versions of installed programs.

/// Returns whether the first version in `text` is older than these two numbers. Text without a version is not
/// old.
pub(super) fn is_older(output: &str, oldest: (u64, u64)) -> bool {
    let from = output.find(|it: char| it.is_ascii_digit());
    let mut numbers = output[from.unwrap_or(output.len())..]
        .split(|it: char| !it.is_ascii_digit())
        .map(str::parse::<u64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < oldest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_numerically() {
        for (output, older) in [
            ("20.10.24+dfsg1", false),
            ("19.03.15", true),
            ("9.99", true),
            ("28.2.2", false),
            ("v20.9.0", true),
            ("docker/20.10", false),
            ("dev", false),
            ("7", false),
            ("", false),
        ] {
            assert_eq!(is_older(output, (20, 10)), older, "{output}");
        }
        assert!(is_older("nginx version: nginx/1.18.0 (Ubuntu)", (1, 22)));
        assert!(!is_older("nginx version: nginx/1.22.1", (1, 22)));
    }
}

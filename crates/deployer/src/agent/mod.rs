//! `deployer agent`: keeps one router of several.

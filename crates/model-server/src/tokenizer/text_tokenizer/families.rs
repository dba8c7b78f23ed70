//! Compares token IDs with those of Python's library, for a tokenizer of each family.

use std::{fs::File, path::PathBuf};

use flate2::read::GzDecoder;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::*;

/// The limit in tokens with which Python truncated the texts.
const MAX_TOKENS: usize = 128;

/// Returns the `tokenizer.json` of a family.
pub(super) fn tokenizer_file(name: &str) -> serde_json::Value {
    read::<Family>(name).tokenizer
}

/// One file of `tests/data/families`.
#[derive(Deserialize)]
struct Family {
    tokenizer: serde_json::Value,
    /// The token IDs of the first texts.
    ids: Vec<Vec<i64>>,
    /// The hash of each text's tokens.
    texts: Vec<String>,
    /// The hash of the tokens of each text with the next one.
    pairs: Vec<String>,
    /// The same for other ways to truncate.
    truncated: Vec<Truncated>,
}

/// Pairs that Python truncated in one way.
#[derive(Deserialize)]
struct Truncated {
    truncation: serde_json::Value,
    /// The hash of each of the first pairs; `None` if Python refused it.
    pairs: Vec<Option<String>>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/families")
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let file = File::open(directory().join(format!("{name}.json.gz"))).unwrap();
    serde_json::from_reader(GzDecoder::new(file)).unwrap()
}

fn names() -> Vec<String> {
    let files = std::fs::read_dir(directory()).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json.gz").map(str::to_owned))
        .filter(|name| name != "texts")
        .collect();
    names.sort();
    names
}

/// Hashes the token IDs and the sentences of the tokens, as `tokenizer_families.py` does.
fn digest(tokens: Result<TokenIds, TextError>) -> String {
    let tokens = match tokens {
        Ok(tokens) => tokens,
        Err(TextError::NoTokens) => TokenIds::default(),
        Err(error) => panic!("{error}"),
    };
    let types = tokens.types.unwrap_or_else(|| vec![0; tokens.ids.len()]);
    let numbers: Vec<String> = tokens
        .ids
        .iter()
        .chain(&types)
        .map(i64::to_string)
        .collect();
    let hash = Sha256::digest(numbers.join(","));
    format!("{:016x}", u64::from_be_bytes(hash[..8].try_into().unwrap()))
}

/// Counts the texts whose tokens differ from those of Python.
fn count(hashes: &[String], tokens: impl Iterator<Item = Result<TokenIds, TextError>>) -> usize {
    let differ = tokens
        .zip(hashes)
        .filter_map(|(tokens, hash)| (digest(tokens) != *hash).then_some(()));
    differ.count()
}

#[test]
fn token_ids_match_python_for_every_family() {
    let texts: Vec<String> = read("texts");
    let mut failed = Vec::new();
    println!("| Family | Texts that differ | Pairs that differ |\n|---|---:|---:|");
    for name in names() {
        let family: Family = read(&name);
        let file = family.tokenizer.to_string();
        let tokenizer = TextTokenizer::parse(file.as_bytes(), MAX_TOKENS).unwrap();
        for (text, ids) in texts.iter().zip(&family.ids) {
            assert_eq!(
                tokenizer.tokenize(text).unwrap().ids,
                *ids,
                "{name}: {text:?}"
            );
        }
        let singles = texts.iter().map(|text| tokenizer.tokenize(text));
        let singles = count(&family.texts, singles);
        let next = texts.iter().cycle().skip(1);
        let pairs = texts.iter().zip(next);
        let pairs = pairs.map(|(text, pair)| tokenizer.tokenize_pair(text, pair));
        let pairs = tokenizer.makes_pairs().then(|| count(&family.pairs, pairs));
        let of = |count: usize| format!("{count} of {}", texts.len());
        let pairs_cell = pairs.map_or("makes none".to_owned(), of);
        println!("| {name} | {} | {pairs_cell} |", of(singles));
        if singles + pairs.unwrap_or(0) > 0 {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn truncated_pairs_match_python_for_every_strategy() {
    let texts: Vec<String> = read("texts");
    let mut compared = 0;
    for name in names() {
        let family: Family = read(&name);
        for truncated in family.truncated {
            let mut file = family.tokenizer.clone();
            file["truncation"] = truncated.truncation.clone();
            let tokenizer = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap();
            let next = texts.iter().cycle().skip(1);
            for ((text, pair), hash) in texts.iter().zip(next).zip(&truncated.pairs) {
                let tokens = tokenizer.tokenize_pair(text, pair);
                let refused = matches!(tokens, Err(TextError::TooLong { .. }));
                let given = (!refused).then(|| digest(tokens));
                assert_eq!(given, *hash, "{name}, {}: {text:?}", truncated.truncation);
                compared += 1;
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

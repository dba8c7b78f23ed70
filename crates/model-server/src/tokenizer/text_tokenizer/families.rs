//! Compares token IDs with those of Python's library, for a tokenizer of each family.

use std::{fs::File, path::PathBuf};

use flate2::read::GzDecoder;
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::*;

/// The limit in tokens with which Python truncated the texts.
const MAX_TOKENS: usize = 128;

/// The names of all families.
const FAMILIES: [&str; 19] = [
    "albert",
    "bert",
    "bert-cased",
    "clip",
    "deberta",
    "deberta-v3",
    "deberta-v3-converted",
    "deberta-v3-punctuation",
    "gpt2",
    "gpt2-prefix-space",
    "llama",
    "llama-3",
    "llama-normalizer",
    "roberta",
    "roberta-prefix-space",
    "t5",
    "word-level",
    "xlm-roberta",
    "xlm-roberta-converted",
];

/// The families whose pairs Python truncated in each way: 3 strategies on 2 sides.
const TRUNCATED_FAMILIES: [&str; 3] = ["bert", "roberta", "t5"];

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

#[test]
fn every_family_file_is_compared() {
    let files = std::fs::read_dir(directory()).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json.gz").map(str::to_owned))
        .filter(|name| name != "texts")
        .collect();
    names.sort();
    assert_eq!(names, FAMILIES);
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
    let digests: Vec<String> = tokens.map(digest).collect();
    assert_eq!(digests.len(), hashes.len());
    let pairs = digests.iter().zip(hashes);
    pairs.filter(|(digest, hash)| digest != hash).count()
}

#[test]
fn token_ids_match_python_for_every_family() {
    let texts: Vec<String> = read("texts");
    assert_eq!(texts.len(), 1000);
    let mut failed = Vec::new();
    println!("| Family | Texts that differ | Pairs that differ |\n|---|---:|---:|");
    for name in FAMILIES {
        let family: Family = read(name);
        assert_eq!(family.ids.len(), 10);
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
    for name in FAMILIES {
        let family: Family = read(name);
        let ways = if TRUNCATED_FAMILIES.contains(&name) {
            6
        } else {
            0
        };
        assert_eq!(family.truncated.len(), ways, "{name}");
        for truncated in family.truncated {
            let mut file = family.tokenizer.clone();
            file["truncation"] = truncated.truncation.clone();
            let tokenizer = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap();
            assert_eq!(truncated.pairs.len(), 40);
            let next = texts.iter().cycle().skip(1);
            for ((text, pair), hash) in texts.iter().zip(next).zip(&truncated.pairs) {
                let tokens = tokenizer.tokenize_pair(text, pair);
                let refused =
                    matches!(tokens, Err(TextError::TextTooLong | TextError::PairTooLong));
                let given = (!refused).then(|| digest(tokens));
                assert_eq!(given, *hash, "{name}, {}: {text:?}", truncated.truncation);
            }
        }
    }
}

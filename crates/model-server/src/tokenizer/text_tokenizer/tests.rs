use std::{path::Path, sync::LazyLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A WordPiece tokenizer with six words and two special tokens.
fn tokenizer_file(extra: &str) -> String {
    format!(
        r#"{{"version": "1.0", {extra}
        "added_tokens": [], "decoder": null,
        "normalizer": {{"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}},
        "pre_tokenizer": {{"type": "BertPreTokenizer"}},
        "post_processor": {{"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}},
        "model": {{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "\#\#",
            "max_input_chars_per_word": 100,
            "vocab": {{"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "film": 4, "\#\#s": 5}}}}}}"#
    )
    .replace("\\#", "#")
}

const PLAIN: &str = r#""truncation": null, "padding": null,"#;

#[test]
fn text_is_tokenized_between_special_tokens() {
    let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 512).unwrap();
    let tokens = tokenizer.tokenize("Good films, GOOD").unwrap();
    assert_eq!(tokens.ids, [1, 3, 4, 5, 0, 3, 2]);
    assert!(tokens.types.is_none() && !tokens.truncated);
}

#[test]
fn long_text_is_truncated_and_keeps_special_tokens() {
    let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 5).unwrap();
    let tokens = tokenizer.tokenize(&"good film ".repeat(1000)).unwrap();
    assert_eq!(tokens.ids, [1, 3, 4, 3, 2]);
    assert!(tokens.truncated);
}

#[test]
fn tokenizer_file_may_lower_the_limit_and_never_pads() {
    let extra = r#""truncation": {"direction": "Right", "max_length": 4,
            "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 128}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"},"#;
    let tokenizer = TextTokenizer::parse(tokenizer_file(extra).as_bytes(), 512).unwrap();
    assert_eq!(tokenizer.tokenize("good").unwrap().ids, [1, 3, 2]);
    let truncated = tokenizer.tokenize("good good good good").unwrap();
    assert_eq!(truncated.ids, [1, 3, 3, 2]);
}

#[test]
fn long_text_is_truncated_if_the_file_truncates_only_the_second() {
    let extra = r#""truncation": {"direction": "Right", "max_length": 4,
            "strategy": "OnlySecond", "stride": 0}, "padding": null,"#;
    let tokenizer = TextTokenizer::parse(tokenizer_file(extra).as_bytes(), 512).unwrap();
    let tokens = tokenizer.tokenize("good film good film").unwrap();
    assert_eq!(tokens.ids, [1, 3, 4, 2]);
    assert!(tokens.truncated);
}

#[test]
fn limit_too_small_for_text_is_refused() {
    let error = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 2).unwrap_err();
    assert!(error.to_string().contains("no text fits"), "{error}");
}

#[test]
fn invalid_tokenizer_file_is_refused() {
    let error = TextTokenizer::parse(b"{}", 512).unwrap_err();
    assert!(error.to_string().contains("Hugging Face"), "{error}");
}

#[test]
fn token_ids_match_python_in_every_script() {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = std::fs::read(crate_directory.join("tests/data/token_ids.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let mut compared = 0;
    for release in ["v1", "v2"] {
        let path = format!("../../models/sentiment/{release}/tokenizer.json");
        let bytes = std::fs::read(crate_directory.join(path)).unwrap();
        let tokenizer = TextTokenizer::parse(&bytes, 128).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            if case["release"] == release {
                let text = case["text"].as_str().unwrap();
                let tokens = tokenizer.tokenize(text).unwrap();
                assert_eq!(json!(tokens.ids), case["ids"], "{text:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn bpe_and_unigram_token_ids_match_python() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let cases = std::fs::read(data.join("trained_token_ids.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    for (name, file) in [
        ("bpe", "models/quantizing/1/tokenizer.json"),
        ("unigram", "unigram.json"),
    ] {
        let bytes = std::fs::read(data.join(file)).unwrap();
        let tokenizer = TextTokenizer::parse(&bytes, 10_000).unwrap();
        let of_this = |case: &&Value| case["tokenizer"] == name;
        let cases: Vec<_> = cases["cases"]
            .as_array()
            .unwrap()
            .iter()
            .filter(of_this)
            .collect();
        assert!(cases.len() > 20);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let tokens = tokenizer.tokenize(text).unwrap();
            assert_eq!(json!(tokens.ids), case["ids"], "{name}: {text:?}");
        }
    }
}

/// A tokenizer of BERT's family with a truncation for pairs.
fn truncating(strategy: &str, direction: &str, length: usize) -> TextTokenizer {
    let extra = format!(
        r#""truncation": {{"direction": "{direction}", "max_length": {length},
            "strategy": "{strategy}", "stride": 3}}, "padding": null,"#
    );
    TextTokenizer::parse(tokenizer_file(&extra).as_bytes(), 512).unwrap()
}

#[test]
fn pair_is_tokenized_as_two_sentences() {
    let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 512).unwrap();
    let tokens = tokenizer.tokenize_pair("good", "film films").unwrap();
    assert_eq!(tokens.ids, [1, 3, 2, 4, 4, 5, 2]);
    assert_eq!(tokens.types, Some(vec![0, 0, 0, 1, 1, 1, 1]));
    assert!(!tokens.truncated);
}

#[test]
fn long_pair_is_truncated_by_the_strategy_of_the_file() {
    let (text, pair) = ("good good film", "film film film good");
    for (strategy, direction, expected) in [
        ("LongestFirst", "Right", [1, 3, 3, 2, 4, 4, 2]),
        ("LongestFirst", "Left", [1, 3, 4, 2, 4, 3, 2]),
        ("OnlySecond", "Right", [1, 3, 3, 4, 2, 4, 2]),
        ("OnlySecond", "Left", [1, 3, 3, 4, 2, 3, 2]),
    ] {
        let tokens = truncating(strategy, direction, 7).tokenize_pair(text, pair);
        let tokens = tokens.unwrap();
        assert_eq!(tokens.ids, expected, "{strategy} {direction}");
        assert!(tokens.truncated);
    }
}

#[test]
fn pair_is_refused_if_the_truncated_text_is_shorter_than_the_surplus() {
    for (strategy, expected) in [
        (
            "OnlyFirst",
            "text_pair is too long: the tokenizer truncates only text,",
        ),
        (
            "OnlySecond",
            "text is too long: the tokenizer truncates only text_pair,",
        ),
    ] {
        let tokenizer = truncating(strategy, "Right", 7);
        let long = "good ".repeat(9);
        let (text, pair) = match strategy {
            "OnlyFirst" => ("film", long.as_str()),
            _ => (long.as_str(), "film"),
        };
        let error = tokenizer.tokenize_pair(text, pair).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// An unknown word fails this tokenizer, so the end of the text was not read.
#[test]
fn pair_reads_only_the_beginning_of_a_long_text() {
    let mut file: Value = serde_json::from_str(&tokenizer_file(PLAIN)).unwrap();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.remove("[UNK]").unwrap();
    let tokenizer = TextTokenizer::parse(file.to_string().as_bytes(), 7).unwrap();
    let long = "good ".repeat(1000) + "bad";
    tokenizer.tokenize_pair("bad", "film").unwrap_err();
    let tokens = tokenizer.tokenize_pair(&long, "film").unwrap();
    assert_eq!(tokens.ids, [1, 3, 3, 3, 2, 4, 2]);
    let tokens = tokenizer.tokenize_pair("film", &long).unwrap();
    assert_eq!(tokens.ids, [1, 4, 2, 3, 3, 3, 2]);
}

#[test]
fn left_truncation_keeps_the_end_of_a_long_text() {
    let tokenizer = truncating("OnlySecond", "Left", 5);
    let tokens = tokenizer.tokenize("good good good film films").unwrap();
    assert_eq!(tokens.ids, [1, 4, 4, 5, 2]);
    assert!(tokens.truncated);
}

#[test]
fn tokenizer_without_template_for_pairs_refuses_them() {
    let file = tokenizer_file(PLAIN);
    let mut file: Value = serde_json::from_str(&file).unwrap();
    file["post_processor"] = Value::Null;
    let tokenizer = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap();
    assert!(!tokenizer.makes_pairs());
    let error = tokenizer.tokenize_pair("good", "film").unwrap_err();
    assert!(error.to_string().contains("makes no pairs"), "{error}");
}

#[test]
fn template_for_pairs_without_special_tokens_makes_no_pairs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/sentiment/v1");
    let file = std::fs::read(path.join("tokenizer.json")).unwrap();
    assert!(!TextTokenizer::parse(&file, 512).unwrap().makes_pairs());
}

#[test]
fn template_with_a_missing_token_is_refused() {
    let mut file: Value = serde_json::from_str(&tokenizer_file(PLAIN)).unwrap();
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {}});
    let error = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap_err();
    assert!(error.to_string().contains("post-processor"), "{error}");
}

#[test]
fn template_that_repeats_a_text_is_refused() {
    let mut file: Value = serde_json::from_str(&tokenizer_file(PLAIN)).unwrap();
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    file["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [text, text], "pair": [], "special_tokens": {}});
    let error = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap_err();
    assert!(error.to_string().contains("each text once"), "{error}");
}

#[test]
fn model_with_dropout_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/quantizing/1");
    let file = std::fs::read(path.join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&file).unwrap();
    file["model"]["dropout"] = json!(0.1);
    let error = TextTokenizer::parse(file.to_string().as_bytes(), 512).unwrap_err();
    assert!(error.to_string().contains("dropout of 0.1"), "{error}");
}

#[test]
fn unknown_word_without_a_token_for_it_is_an_error_of_the_text() {
    let file = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"good": 0}}}"#;
    let tokenizer = TextTokenizer::parse(file.as_bytes(), 512).unwrap();
    assert_eq!(tokenizer.tokenize("good").unwrap().ids, [0]);
    let error = tokenizer.tokenize("bad").unwrap_err();
    assert!(
        error.to_string().contains("cannot read the text"),
        "{error}"
    );
}

/// Tokenizers whose words are cached, and the same ones without a cache.
static CACHED: LazyLock<Vec<[TextTokenizer; 2]>> = LazyLock::new(|| {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = crate_directory.join("../../models/sentiment/v1/tokenizer.json");
    let shipped: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut files = vec![shipped];
    for name in ["bert", "bert-cased"] {
        let mut file = families::tokenizer_file(name);
        // A token of two words rules the cache out.
        let added = file["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| token["content"] != "Not Good");
        files.push(file);
    }
    let parse = |file: &Value| TextTokenizer::parse(file.to_string().as_bytes(), 24).unwrap();
    let both = |file: Value| {
        let (cached, mut uncached) = (parse(&file), parse(&file));
        assert!(cached.word_cache.is_some());
        uncached.word_cache = None;
        [cached, uncached]
    };
    files.into_iter().map(both).collect()
});

proptest! {
    #[test]
    fn cached_words_and_library_give_the_same_tokens(
        words in prop::collection::vec(
            prop_oneof![
                "[a-zA-Z]{1,9}",
                "[a-z0-9.,!?'#@-]{1,9}",
                "(<url>|<num>|co-op|<Raw>|<raw>|[.]MASK[.]|##s|x){1,3}",
                Just("[MASK]".to_owned()), Just("x[SEP]".to_owned()),
                // Control characters, all kinds of spaces, accents before and after, and Chinese.
                "[a\u{0}\u{1}\u{b}\u{c}\u{85}\u{a0}\u{2003}\u{3000}\u{301}\u{308}éÉßİıΣσς中文語가👍]{1,6}",
                "\\PC{1,8}",
            ],
            1..14,
        ),
        space in "[ \t\r\n]{1,2}",
    ) {
        let text = words.join(&space);
        for [cached, uncached] in CACHED.iter() {
            let expected = uncached.tokenize(&text).map_err(|error| error.to_string());
            // Each time the cache learns more words.
            for _ in 0..5 {
                let tokens = cached.tokenize(&text).map_err(|error| error.to_string());
                prop_assert_eq!(&tokens, &expected);
            }
        }
    }

    #[test]
    fn long_pairs_have_the_tokens_of_the_whole_texts(
        lengths in prop::array::uniform2(0..80_usize),
        words in prop::collection::vec("good|film|films|x", 1..9),
        limit in 5..24_usize,
        strategy in "LongestFirst|OnlyFirst|OnlySecond",
        direction in "Left|Right",
    ) {
        let tokenizer = truncating(&strategy, &direction, limit);
        let [text, pair] = lengths.map(|length| {
            let words = words.iter().map(String::as_str).cycle().take(length);
            words.collect::<Vec<_>>().join(" ")
        });
        let ids = |text: &str| token_ids(&tokenizer.tokenizer, text, None).unwrap();
        let params = &tokenizer.truncation;
        let whole = tokenizer
            .post_processor
            .truncate_pair(ids(&text), ids(&pair), limit, params);
        let message = |tokens: Result<TokenIds, TextError>| tokens.map_err(|it| it.to_string());
        prop_assert_eq!(message(tokenizer.tokenize_pair(&text, &pair)), message(whole));
    }
}

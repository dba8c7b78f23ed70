use crate::task::model_config::PaddingToken;

/// How shorter texts are padded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Padding {
    /// The ID of the padding token; `None` if `config.json` names none, and transformers has no default.
    pub(crate) token: Option<i64>,
    /// The position of the first token. Some models reserve the positions up to the ID of the padding token.
    pub(crate) first_position: usize,
}

/// Models that count positions after the ID of the padding token, as `roberta` does. Their
/// `max_position_embeddings` includes the reserved positions.
const POSITIONS_BEHIND_PADDING: [&str; 16] = [
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "mluke",
];

/// The padding token of each `model_type` whose configuration class in transformers 5.24 has a default. A `config.json`
/// may leave out what equals the default. Decoders such as `gpt2`, `llama`, `mistral`, and `qwen2` have none.
const DEFAULT_TOKENS: [(i64, &[&str]); 10] = [
    (
        0,
        &[
            "albert",
            "bert",
            "big_bird",
            "bigbird_pegasus",
            "canine",
            "cohere_compass_text",
            "deberta",
            "deberta-v2",
            "distilbert",
            "electra",
            "ernie",
            "gemma",
            "gemma2",
            "gemma3_text",
            "hunyuan_v1_dense",
            "hunyuan_v1_moe",
            "jamba",
            "layoutlm",
            "layoutlmv2",
            "lilt",
            "markuplm",
            "megatron-bert",
            "mobilebert",
            "mt5",
            "nomic_bert",
            "reformer",
            "rembert",
            "roc_bert",
            "roformer",
            "squeezebert",
            "t5",
            "t5gemma",
            "t5gemma2",
            "tapas",
            "ultrabert",
            "umt5",
            "zamba",
            "zamba2",
        ],
    ),
    (
        1,
        &[
            "bart",
            "biogpt",
            "camembert",
            "convbert",
            "data2vec-text",
            "esmc",
            "gte",
            "ibert",
            "jina_embeddings_v3",
            "layoutlmv3",
            "longformer",
            "luke",
            "mbart",
            "mluke",
            "mpnet",
            "mra",
            "mvp",
            "nystromformer",
            "olmo",
            "olmo2",
            "olmo3",
            "opt",
            "plbart",
            "roberta",
            "roberta-prelayernorm",
            "seed_oss",
            "xlm-roberta",
            "xlm-roberta-xl",
            "xmod",
            "yoso",
        ],
    ),
    (2, &["flaubert", "xlm"]),
    (3, &["fnet", "helium"]),
    (5, &["xlnet"]),
    (11, &["ministral3", "mistral4"]),
    (32_000, &["phi3"]),
    (50_283, &["modernbert", "modernbert-decoder"]),
    (128_001, &["eurobert"]),
    (151_329, &["glm", "glm4"]),
];

impl Padding {
    /// Returns the padding of a model with this `pad_token_id` in its `config.json`.
    ///
    /// The padding that `tokenizer.json` names does not count: the graph of a decoder finds the last token of a text by
    /// the token in `config.json` alone.
    pub(super) fn of(model_type: &str, named: &PaddingToken) -> Self {
        let token = match named {
            PaddingToken::Number(token) => Some(*token),
            PaddingToken::Null => None,
            PaddingToken::Unset => default_token(model_type),
        };
        let token = token.filter(|token| *token >= 0);
        let reserves = POSITIONS_BEHIND_PADDING.contains(&model_type);
        let first_position = match token {
            Some(token) if reserves => usize::try_from(token).unwrap_or(0) + 1,
            _ => 0,
        };
        Self {
            token,
            first_position,
        }
    }
}

fn default_token(model_type: &str) -> Option<i64> {
    let mut defaults = DEFAULT_TOKENS.iter();
    let default = defaults.find(|(_, model_types)| model_types.contains(&model_type));
    default.map(|(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use PaddingToken::{Null, Number, Unset};

    #[test]
    fn named_padding_token_precedes_the_default() {
        for (model_type, named, expected) in [
            ("bert", Unset, Some(0)),
            ("roberta", Unset, Some(1)),
            ("modernbert", Unset, Some(50_283)),
            ("bert", Number(7), Some(7)),
            ("bert", Null, None),
            ("bert", Number(-1), None),
            ("gpt2", Number(50_256), Some(50_256)),
        ] {
            assert_eq!(Padding::of(model_type, &named).token, expected);
        }
    }

    #[test]
    fn decoders_and_unknown_models_have_no_default_padding_token() {
        for model_type in [
            "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "bloom", "falcon", "",
        ] {
            assert_eq!(Padding::of(model_type, &Unset).token, None, "{model_type}");
        }
    }

    #[test]
    fn positions_start_behind_the_padding_token_of_some_models() {
        assert_eq!(Padding::of("roberta", &Unset).first_position, 2);
        assert_eq!(Padding::of("xlm-roberta", &Number(7)).first_position, 8);
        assert_eq!(Padding::of("roberta", &Null).first_position, 0);
        assert_eq!(Padding::of("bert", &Number(7)).first_position, 0);
    }
}

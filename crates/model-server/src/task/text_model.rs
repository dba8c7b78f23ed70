use thiserror::Error;

use crate::{
    backend::{
        engine::{Engine, EngineError, GraphError, Parallelism},
        tensor::{Signature, Tensor},
    },
    task::{
        model_config::ModelConfig,
        padding::Padding,
        text_inputs::{Conversion, FixedLengths, TextInput, text_inputs},
        text_task::{TextTask, TextTaskError, UnexpectedOutput},
        text_tasks,
    },
    tokenizer::text_tokenizer::{TextTokenizer, TokenIds},
};

/// Why a forward pass returned no rows.
#[derive(Debug, Clone, Error)]
pub(crate) enum PassError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Output(#[from] UnexpectedOutput),
}

/// A model that reads texts: turns them into the inputs of its graph. Its task reads the output.
#[derive(Debug)]
pub(crate) struct TextModel {
    /// From texts to tokens.
    pub(crate) tokenizer: TextTokenizer,
    /// What it makes of the texts.
    pub(crate) task: Box<dyn TextTask>,
    padding: Padding,
    inputs: Vec<(TextInput, Conversion)>,
    fixed: FixedLengths,
}

impl TextModel {
    /// Matches the inputs and outputs of a graph.
    pub(crate) fn new(
        signature: &Signature,
        mut tokenizer: TextTokenizer,
        config: &ModelConfig,
    ) -> Result<Self, TextTaskError> {
        let (inputs, fixed) = text_inputs(signature)?;
        if let Some(tokens) = fixed.tokens {
            tokenizer.lower_limit(tokens)?;
        }
        let mut model = Self {
            tokenizer,
            task: text_tasks::build(config, signature)?,
            padding: config.padding,
            inputs,
            fixed,
        };
        if fixed.tokens.is_none() && !model.has_mask() {
            // Such a graph reads padding as text, so a text needs the padding that it has in Python.
            model.tokenizer.pad_texts();
        }
        match fixed.tokens {
            Some(tokens) if !model.has_mask() && config.padding.token.is_none() => {
                Err(GraphError::NoPadding { tokens }.into())
            }
            _ => Ok(model),
        }
    }

    /// The number of texts in each forward pass, if the graph fixes it.
    pub(crate) fn fixed_texts(&self) -> Option<usize> {
        self.fixed.texts
    }

    /// Whether texts of different lengths may share a forward pass, as far as the files tell.
    ///
    /// Without a mask, a graph reads padding as text. With a mask, a decoder still finds the last token of a text by
    /// the padding token. A graph of fixed length pads every text to the same length.
    pub(crate) fn can_pad(&self) -> bool {
        self.has_fixed_length() || self.has_mask() && self.padding.token.is_some()
    }

    pub(super) fn has_fixed_length(&self) -> bool {
        self.fixed.tokens.is_some()
    }

    fn has_mask(&self) -> bool {
        let mut inputs = self.inputs.iter();
        inputs.any(|(input, _)| *input == TextInput::Mask)
    }

    /// Returns how many tokens the graph computes for a text of `tokens` tokens that runs alone.
    pub(crate) fn computed_tokens(&self, tokens: usize) -> usize {
        self.fixed.tokens.unwrap_or(tokens)
    }

    /// Runs a forward pass, and returns the row of each text. `inputs` are those of [`Self::pack`], and `lengths` the
    /// tokens of the texts, without padding.
    pub(crate) fn run(
        &self,
        engine: &mut dyn Engine,
        inputs: &[Tensor],
        lengths: &[usize],
        parallelism: Parallelism,
    ) -> Result<Vec<Vec<f32>>, PassError> {
        let mut outputs = engine.run(inputs, &[self.task.output()], parallelism)?;
        let output = outputs
            .pop()
            .ok_or_else(|| EngineError("the model gave no output".to_owned()))?;
        Ok(self.decode(output, lengths)?)
    }

    /// Returns the row of each text of a batch.
    fn decode(&self, output: Tensor, lengths: &[usize]) -> Result<Vec<Vec<f32>>, UnexpectedOutput> {
        let Some(fixed) = self.fixed.texts else {
            return self.task.decode(output, lengths);
        };
        let mut filled = lengths.to_vec();
        filled.resize(fixed, lengths.last().copied().unwrap_or(0));
        let mut rows = self.task.decode(output, &filled)?;
        rows.truncate(lengths.len());
        Ok(rows)
    }

    /// Returns the inputs of the graph for a batch, padded to the longest text: `texts × longest`.
    ///
    /// A graph of fixed lengths has more rows or columns. The last text is repeated in the other rows: values that are in
    /// no text could change the scale of a graph that quantizes at run time.
    pub(crate) fn pack(&self, texts: &[&TokenIds]) -> Vec<Tensor> {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let columns = self.fixed.tokens.unwrap_or(longest);
        let count = self.fixed.texts.unwrap_or(texts.len());
        let left = self.tokenizer.pads_left();
        let rows = |numbers_of: &dyn Fn(&TokenIds, &mut Vec<i64>), padding: i64| {
            let mut numbers = Vec::with_capacity(count * columns);
            let repeated = texts.last().into_iter().cycle();
            for (row, text) in texts.iter().chain(repeated).take(count).enumerate() {
                if left {
                    numbers.resize((row + 1) * columns - text.ids.len(), padding);
                }
                numbers_of(text, &mut numbers);
                numbers.resize((row + 1) * columns, padding);
            }
            numbers
        };
        let token = self.padding.token.unwrap_or(0);
        let first = i64::try_from(self.padding.first_position).unwrap_or(0);
        let numbers = |input: TextInput| match input {
            TextInput::Ids => rows(&|text, into| into.extend(&text.ids), token),
            TextInput::Mask => rows(&|text, into| into.resize(into.len() + text.ids.len(), 1), 0),
            TextInput::Types => rows(
                &|text, into| match &text.types {
                    Some(types) => into.extend(types),
                    None => into.resize(into.len() + text.ids.len(), 0),
                },
                0,
            ),
            TextInput::Positions => rows(
                &|text, into| into.extend((first..).take(text.ids.len())),
                (first - 1).max(0),
            ),
        };
        let tensor = |(input, convert): &(TextInput, Conversion)| Tensor {
            shape: vec![count, columns],
            elements: convert(numbers(*input)),
        };
        self.inputs.iter().map(tensor).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backend::tensor::{Datatype, Elements, TensorSpec};

    /// A tokenizer with four words.
    fn tokenizer(padding: &str) -> TextTokenizer {
        let file = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": {padding},
            "added_tokens": [], "normalizer": null, "decoder": null, "post_processor": null,
            "pre_tokenizer": {{"type": "Whitespace"}},
            "model": {{"type": "WordLevel", "unk_token": "?",
                "vocab": {{"?": 0, "a": 5, "b": 6, "c": 7}}}}}}"#
        );
        TextTokenizer::parse(file.as_bytes(), 32).unwrap()
    }

    const INPUTS: [&str; 4] = [
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "position_ids",
    ];

    /// A model with every input, all of this shape.
    pub(crate) fn text_model(padding: &str, config: &str, shape: [Option<usize>; 2]) -> TextModel {
        model_with_inputs(&INPUTS, padding, config, shape)
    }

    fn model_with_inputs(
        names: &[&str],
        padding: &str,
        config: &str,
        shape: [Option<usize>; 2],
    ) -> TextModel {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Int64,
            shape: shape.into(),
        };
        let signature = Signature {
            inputs: names.iter().map(|name| spec(name)).collect(),
            outputs: vec![TensorSpec {
                shape: vec![shape[0], Some(2)],
                ..spec("logits")
            }],
        };
        let config = ModelConfig::parse(config.as_bytes()).unwrap();
        TextModel::new(&signature, tokenizer(padding), &config).unwrap()
    }

    fn packed(padding: &str, config: &str, shape: [Option<usize>; 2]) -> Vec<Vec<i64>> {
        packed_texts(&INPUTS, padding, config, shape, &["a b c", "c"])
    }

    fn packed_texts(
        names: &[&str],
        padding: &str,
        config: &str,
        shape: [Option<usize>; 2],
        texts: &[&str],
    ) -> Vec<Vec<i64>> {
        let model = model_with_inputs(names, padding, config, shape);
        let texts = texts.iter().map(|text| model.tokenizer.tokenize(text));
        let texts: Vec<TokenIds> = texts.collect::<Result<_, _>>().unwrap();
        let tensors = model.pack(&texts.iter().collect::<Vec<_>>());
        let numbers = tensors.into_iter().map(|tensor| match tensor.elements {
            Elements::Int64(numbers) => numbers,
            other => panic!("{other:?}"),
        });
        numbers.collect()
    }

    #[test]
    fn shorter_text_is_padded_on_the_right() {
        let config = r#"{"model_type": "bert", "pad_token_id": 9}"#;
        let expected = [
            [5, 6, 7, 7, 9, 9],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 2, 0, 0, 0],
        ];
        assert_eq!(packed("null", config, [None, None]), expected);
    }

    #[test]
    fn shorter_text_is_padded_on_the_left_if_the_tokenizer_says_so() {
        let left = r#"{"strategy": "BatchLongest", "direction": "Left",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "?"}"#;
        let config = r#"{"model_type": "roberta", "pad_token_id": 1}"#;
        let expected = [
            [5, 6, 7, 1, 1, 7],
            [1, 1, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [2, 3, 4, 1, 1, 2],
        ];
        assert_eq!(packed(left, config, [None, None]), expected);
    }

    #[test]
    fn graph_without_mask_gets_the_padding_of_the_tokenizer() {
        let config = r#"{"model_type": "bert", "pad_token_id": 0}"#;
        let names = ["input_ids", "token_type_ids"];
        let shape = [None, None];
        for (strategy, multiple, direction, text, expected) in [
            (r#"{"Fixed": 3}"#, "null", "Right", "c", &[7, 9, 9][..]),
            (r#"{"Fixed": 3}"#, "null", "Left", "c", &[9, 9, 7]),
            (r#"{"Fixed": 3}"#, "2", "Right", "c", &[7, 9, 9, 9]),
            (r#"{"Fixed": 2}"#, "null", "Right", "a b c", &[5, 6, 7]),
            (r#""BatchLongest""#, "2", "Right", "a b c", &[5, 6, 7, 9]),
            (r#""BatchLongest""#, "null", "Right", "c", &[7]),
        ] {
            let padding = format!(
                r#"{{"strategy": {strategy}, "direction": "{direction}",
                "pad_to_multiple_of": {multiple}, "pad_id": 9, "pad_type_id": 1, "pad_token": "?"}}"#
            );
            let types = expected.iter().map(|id| i64::from(*id == 9)).collect();
            let packed = packed_texts(&names, &padding, config, shape, &[text]);
            assert_eq!(packed, [expected.to_vec(), types], "{padding}");
            let masked = packed_texts(&INPUTS, &padding, config, shape, &[text]);
            let words = expected.iter().filter(|id| **id != 9);
            assert!(masked[0].iter().eq(words), "{padding}");
        }
    }

    #[test]
    fn padding_of_the_tokenizer_never_exceeds_the_limit() {
        let padding = format!(
            r#"{{"strategy": {{"Fixed": {0}}}, "direction": "Right",
            "pad_to_multiple_of": {0}, "pad_id": 9, "pad_type_id": 0, "pad_token": "?"}}"#,
            usize::MAX
        );
        let packed = packed_texts(&["input_ids"], &padding, "{}", [None, None], &["c"]);
        assert_eq!(packed[0].len(), 32);
    }

    #[test]
    fn fixed_lengths_are_filled_with_padding_and_the_last_text() {
        let config = r#"{"model_type": "bert", "pad_token_id": 9}"#;
        let expected = [
            [5, 6, 7, 9, 7, 9, 9, 9, 7, 9, 9, 9],
            [1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            [0; 12],
            [0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(packed("null", config, [Some(3), Some(4)]), expected);
    }
}

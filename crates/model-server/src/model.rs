//! What a release knows beside its graph: how texts become its inputs, and what its outputs mean.

use thiserror::Error;

use crate::{
    engine::{Datatype, Elements, Engine, GraphError, Signature, Spread, Tensor},
    text::{Labels, Problem, TextTokenizer, TokenIds},
};

/// The output that exporters name so, where a graph has several.
const LOGITS: &str = "logits";

/// A text that any classifier can read, for the first forward passes: about as long as most.
const WARM_UP_TEXT: &str = "The first text is never the fastest, and so this one has twenty words that no client has to wait for.";

/// Which of a text's tokens an input of the graph takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TextInput {
    Ids,
    Mask,
    Types,
}

/// How texts go into a graph and come out of it.
#[derive(Debug)]
pub(crate) struct TextModel {
    /// From texts to tokens.
    pub(crate) tokenizer: TextTokenizer,
    /// The names of the logits.
    pub(crate) labels: Labels,
    /// What the logits mean.
    pub(crate) problem: Problem,
    padding: i64,
    inputs: Vec<TextInput>,
    logits: usize,
}

/// What a release can answer.
#[derive(Debug)]
pub(crate) enum Task {
    /// Texts, and tensors for whoever has tokenized them already.
    Text(Box<TextModel>),
    /// Tensors only.
    Tensors,
}

impl Task {
    /// Takes `proof` through the model, and tells what is wrong with the answer, if anything is.
    /// `outputs` are the places of all of the graph's outputs.
    pub(crate) fn prove(
        &self,
        engine: &mut dyn Engine,
        proof: &[Tensor],
        outputs: &[usize],
        spread: Spread,
    ) -> Result<(), String> {
        let Self::Text(model) = self else {
            let outputs = engine.run(proof, outputs, spread);
            return outputs.map(drop).map_err(|error| error.to_string());
        };
        let outputs = engine.run(proof, &[model.logits()], spread);
        let mut outputs = outputs.map_err(|error| error.to_string())?;
        let logits = outputs.pop().ok_or("no logits")?;
        let rows = model.unpack(logits, 1).map_err(|error| error.to_string())?;
        let probabilities = model.problem.probabilities(&rows[0]);
        probabilities.map(drop).map_err(|error| error.to_string())
    }
}

/// The model's answer has the wrong shape for texts.
#[derive(Debug, Clone, Error, PartialEq)]
#[error(
    "the model gives {given} of the shape {shape:?} for {texts} texts; config.json names {labels} labels, so [{texts}, {labels}] of FP32 was expected"
)]
pub(crate) struct LogitsShape {
    given: Datatype,
    shape: Vec<usize>,
    texts: usize,
    labels: usize,
}

impl TextModel {
    /// Finds the places in a graph where a text goes in and its logits come out.
    pub(crate) fn new(
        signature: &Signature,
        tokenizer: TextTokenizer,
        labels: Labels,
        problem: Problem,
        padding: i64,
    ) -> Result<Self, GraphError> {
        let inputs: Vec<TextInput> = signature
            .inputs
            .iter()
            .map(|input| match input.name.as_str() {
                "input_ids" => Ok(TextInput::Ids),
                "attention_mask" => Ok(TextInput::Mask),
                "token_type_ids" => Ok(TextInput::Types),
                other => Err(GraphError::UnknownInput(other.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        if !inputs.contains(&TextInput::Ids) {
            return Err(GraphError::NoInputIds);
        }
        let outputs = &signature.outputs;
        let named = outputs.iter().position(|output| output.name == LOGITS);
        let logits = match (named, outputs.len()) {
            (Some(place), _) => place,
            (None, 1) => 0,
            (None, _) => {
                let all = outputs.iter().map(|output| output.name.clone());
                return Err(GraphError::Outputs(all.collect()));
            }
        };
        Ok(Self {
            tokenizer,
            labels,
            problem,
            padding,
            inputs,
            logits,
        })
    }

    /// The place of the logits among the graph's outputs.
    pub(crate) fn logits(&self) -> usize {
        self.logits
    }

    /// The graph's inputs for some texts, each filled up to the longest: `texts × longest`.
    pub(crate) fn pack(&self, texts: &[&TokenIds]) -> Vec<Tensor> {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        let rows = |numbers_of: &dyn Fn(&TokenIds, &mut Vec<i64>), filling: i64| {
            let mut numbers = Vec::with_capacity(texts.len() * longest);
            for (row, text) in texts.iter().enumerate() {
                numbers_of(text, &mut numbers);
                numbers.resize((row + 1) * longest, filling);
            }
            Tensor {
                shape: vec![texts.len(), longest],
                elements: Elements::Int64(numbers),
            }
        };
        self.inputs
            .iter()
            .map(|input| match input {
                TextInput::Ids => rows(&|text, into| into.extend(&text.ids), self.padding),
                TextInput::Mask => {
                    rows(&|text, into| into.resize(into.len() + text.ids.len(), 1), 0)
                }
                TextInput::Types => rows(
                    &|text, into| {
                        if let Some(types) = &text.types {
                            into.extend(types);
                        }
                    },
                    0,
                ),
            })
            .collect()
    }

    /// The logits of each of `texts` texts.
    pub(crate) fn unpack(
        &self,
        logits: Tensor,
        texts: usize,
    ) -> Result<Vec<Vec<f32>>, LogitsShape> {
        let labels = self.labels.len();
        match (logits.elements, logits.shape.as_slice()) {
            (Elements::Fp32(numbers), &[rows, columns]) if rows == texts && columns == labels => {
                Ok(numbers.chunks(labels).map(<[f32]>::to_vec).collect())
            }
            (other, _) => Err(LogitsShape {
                given: other.datatype(),
                shape: logits.shape,
                texts,
                labels,
            }),
        }
    }
}

/// Inputs for a first forward pass.
pub(crate) fn warm_up_inputs(task: &Task, signature: &Signature) -> Result<Vec<Tensor>, String> {
    match task {
        Task::Text(model) => {
            let tokens = model.tokenizer.tokenize(WARM_UP_TEXT);
            Ok(model.pack(&[&tokens.map_err(|error| error.to_string())?]))
        }
        Task::Tensors => Ok(signature
            .inputs
            .iter()
            .map(|input| {
                let shape: Vec<usize> = input.shape.iter().map(|it| it.unwrap_or(1)).collect();
                Tensor {
                    elements: input.datatype.zeros(shape.iter().product()),
                    shape,
                }
            })
            .collect()),
    }
}

mod classification;
pub(crate) mod model_config;
mod multi_label;
mod padding;
mod python_json;
pub(crate) mod sharing;
mod single_label;
mod text_inputs;
pub(crate) mod text_model;
pub(crate) mod text_task;
mod text_tasks;

use crate::{
    backend::{
        engine::{Engine, Parallelism},
        tensor::{Signature, Tensor, TensorSpec},
    },
    task::{sharing::Sharing, text_model::TextModel},
};

/// A text of typical length for the first forward passes of any model for texts.
const WARM_UP_TEXT: &str = "The first text is never the fastest, and so this one has twenty words that no client has to wait for.";

/// What a release answers.
#[derive(Debug)]
pub(crate) enum ModelTask {
    /// Texts, and tensors of clients that tokenize themselves.
    Text(Box<TextModel>),
    /// Tensors only.
    Tensors,
}

impl ModelTask {
    /// Whether a self-test may fail although the model works: some dimensions are not fixed, and length 1 was a
    /// guess.
    pub(crate) fn may_reject_guessed_shapes(&self, signature: &Signature) -> bool {
        let unknown = |input: &TensorSpec| input.shape.iter().any(Option::is_none);
        matches!(self, Self::Tensors) && signature.inputs.iter().any(unknown)
    }

    /// Measures which texts may share a forward pass. Tensors of clients never do.
    pub(crate) fn measure_sharing(&self, engine: &mut dyn Engine) -> Sharing {
        let mut sharing = Sharing::Nothing;
        if let Self::Text(model) = self {
            engine.enter(&mut |engine| sharing = model.measure_sharing(engine));
        }
        sharing
    }

    /// Runs `self_test_inputs`, and fails if the engine fails or a text has no answer. `outputs` are the
    /// indices of all outputs of the graph.
    pub(crate) fn self_test(
        &self,
        engine: &mut dyn Engine,
        self_test_inputs: &[Tensor],
        outputs: &[usize],
        parallelism: Parallelism,
    ) -> Result<(), String> {
        let Self::Text(model) = self else {
            let outputs = engine.run(self_test_inputs, outputs, parallelism);
            return outputs.map(drop).map_err(|error| error.to_string());
        };
        let length = self_test_inputs.first().and_then(|ids| ids.shape.last());
        let lengths = [length.copied().unwrap_or(0)];
        let rows = model.run(engine, self_test_inputs, &lengths, parallelism);
        let rows = rows.map_err(|error| error.to_string())?;
        let answer = model.task.answer(&rows[0], None);
        answer.map(drop).map_err(|error| error.to_string())
    }
}

/// Returns inputs for a self-test.
pub(crate) fn warm_up_inputs(
    task: &ModelTask,
    signature: &Signature,
) -> Result<Vec<Tensor>, String> {
    match task {
        ModelTask::Text(model) => {
            let tokens = model.tokenizer.tokenize(WARM_UP_TEXT);
            Ok(model.pack(&[&tokens.map_err(|error| error.to_string())?]))
        }
        ModelTask::Tensors => Ok(signature
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

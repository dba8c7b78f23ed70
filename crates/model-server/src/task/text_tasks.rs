use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema::AnyOfBuilder},
};

use crate::{
    backend::{engine::GraphError, tensor::Signature},
    task::{
        classification,
        model_config::{ConfigError, ModelConfig},
        multi_label, single_label,
        text_task::{BuiltTask, NamedSchema, Prediction, TextTaskKind},
    },
};

/// All tasks for texts: a new one is a file and a line here.
static TEXT_TASKS: [TextTaskKind; 2] = [single_label::KIND, multi_label::KIND];

/// Creates the task that `config.json` names.
pub(super) fn build(config: &ModelConfig, signature: &Signature) -> BuiltTask {
    let kind = match &config.problem_type {
        Some(name) => named(name)?,
        None => default_kind(config, signature)?,
    };
    (kind.build)(config, signature)
}

/// Returns the task with this `problem_type`.
fn named(problem_type: &str) -> Result<&'static TextTaskKind, ConfigError> {
    let mut kinds = TEXT_TASKS.iter();
    let kind = kinds.find(|kind| kind.problem_type == problem_type);
    kind.ok_or_else(|| ConfigError::ProblemType {
        given: problem_type.to_owned(),
        expected: TEXT_TASKS
            .each_ref()
            .map(|kind| kind.problem_type)
            .join(" or "),
    })
}

/// Returns the task of a model whose `config.json` has no `problem_type`, as transformers' pipeline chooses it: with
/// one label, softmax would always return 1.
fn default_kind(
    config: &ModelConfig,
    signature: &Signature,
) -> Result<&'static TextTaskKind, GraphError> {
    Ok(match classification::count_labels(config, signature)? {
        1 => &multi_label::KIND,
        _ => &single_label::KIND,
    })
}

impl PartialSchema for Prediction {
    fn schema() -> RefOr<Schema> {
        let mut named = Vec::new();
        let any = TEXT_TASKS.iter().fold(AnyOfBuilder::new(), |any, kind| {
            any.item((kind.schema)(&mut named))
        });
        let description = "The answer for one text. It depends on the model's `problem_type`.";
        any.description(Some(description)).into()
    }
}

impl ToSchema for Prediction {
    fn name() -> Cow<'static, str> {
        "Prediction".into()
    }

    fn schemas(schemas: &mut Vec<NamedSchema>) {
        for kind in &TEXT_TASKS {
            (kind.schema)(schemas);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_type_names_a_task_of_the_table() {
        for kind in &TEXT_TASKS {
            assert_eq!(
                named(kind.problem_type).unwrap().problem_type,
                kind.problem_type
            );
        }
        assert_eq!(
            named("regression").unwrap_err().to_string(),
            "problem_type is \"regression\"; expected single_label_classification or multi_label_classification"
        );
    }
}

"""Trains tiny tokenizers, and generates tiny models that differ in kind from the shipped ones."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import tokenizers
from onnx import TensorProto, numpy_helper
from texts import TEXTS
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

DATA = Path("crates/model-server/tests/data")
GOLDEN_SET = Path("models/sentiment/golden.jsonl")
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
# As in RoBERTa, positions start behind the padding token's ID, so the first two stay unused.
POSITIONS, FIRST_POSITION = 20, 2
EMBEDDING_SIZE, HIDDEN_SIZE, LABELS = 16, 8, 3
RANDOM = np.random.default_rng(7)


def train_bpe(texts: list[str]) -> tokenizers.Tokenizer:
    """Trains a byte-level BPE tokenizer, as RoBERTa uses."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def train_unigram(texts: list[str]) -> tokenizers.Tokenizer:
    """Trains a Unigram tokenizer, as XLM-RoBERTa uses."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def weight(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values, name)


def value_info(name: str, data_type: int, shape: list) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, data_type, shape)


def save_model(name: str, nodes: list, inputs: list, outputs: list, weights: list) -> Path:
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs, weights)
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    directory = DATA / "models" / name / "1"
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    return directory


def save_quantizing_model(vocabulary_size: int) -> Path:
    """Saves a classifier that quantizes its activations by the largest of them.

    Every seventh token has large embeddings, so a text's scores depend on the texts in the same pass.
    """
    embeddings = RANDOM.normal(size=(vocabulary_size, EMBEDDING_SIZE)).astype(np.float32)
    embeddings[::7] *= 30
    weights = [
        weight("table", embeddings),
        weight("places", RANDOM.normal(size=(POSITIONS, EMBEDDING_SIZE)).astype(np.float32)),
        weight("mixing", RANDOM.integers(-127, 128, (EMBEDDING_SIZE, HIDDEN_SIZE)).astype(np.int8)),
        weight("mixing_scale", np.float32(0.01)),
        weight("classes", RANDOM.normal(size=(HIDDEN_SIZE, LABELS)).astype(np.float32)),
        weight("each_token", np.array([1], np.int64)),
        weight("last", np.array([2], np.int64)),
    ]
    nodes = [
        onnx.helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        onnx.helper.make_node("Gather", ["places", "position_ids"], ["positions"]),
        onnx.helper.make_node("Add", ["words", "positions"], ["tokens"]),
        onnx.helper.make_node("DynamicQuantizeLinear", ["tokens"], ["few_bits", "scale", "zero"]),
        onnx.helper.make_node("MatMulInteger", ["few_bits", "mixing", "zero"], ["sums"]),
        onnx.helper.make_node("Cast", ["sums"], ["whole"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["scale", "mixing_scale"], ["both_scales"]),
        onnx.helper.make_node("Mul", ["whole", "both_scales"], ["mixed"]),
        onnx.helper.make_node("Tanh", ["mixed"], ["hidden"]),
        onnx.helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        onnx.helper.make_node("Mul", ["hidden", "column"], ["read"]),
        onnx.helper.make_node("ReduceSum", ["read", "each_token"], ["all"], keepdims=0),
        onnx.helper.make_node("ReduceSum", ["mask", "each_token"], ["count"], keepdims=1),
        onnx.helper.make_node("Div", ["all", "count"], ["mean"]),
        onnx.helper.make_node("MatMul", ["mean", "classes"], ["logits"]),
    ]
    names = ["input_ids", "attention_mask", "position_ids"]
    inputs = [value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in names]
    outputs = [value_info("logits", TensorProto.FLOAT, ["texts", LABELS])]
    return save_model("quantizing", nodes, inputs, outputs, weights)


def save_floats_model() -> None:
    """Saves a model that returns logarithms of sums, which are no numbers for sums below 0.

    It takes rows of four values, and does not declare the length of a row.
    """
    weights = [weight("weights", np.array([[1, -1], [2, 1], [0, 1], [1, 1]], np.float32))]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weights"], ["sums"]),
        onnx.helper.make_node("Log", ["sums"], ["y"]),
        onnx.helper.make_node("ArgMax", ["sums"], ["largest"], axis=1, keepdims=0),
    ]
    inputs = [value_info("x", TensorProto.FLOAT, ["rows", "columns"])]
    outputs = [
        value_info("y", TensorProto.FLOAT, ["rows", 2]),
        value_info("largest", TensorProto.INT64, ["rows"]),
    ]
    save_model("floats", nodes, inputs, outputs, weights)


def save_external_model() -> None:
    """Saves a model whose weights are in a second file. It returns the sum of each row of four values."""
    nodes = [onnx.helper.make_node("MatMul", ["x", "weights"], ["sum"])]
    inputs = [value_info("x", TensorProto.FLOAT, ["rows", 4])]
    outputs = [value_info("sum", TensorProto.FLOAT, ["rows", 1])]
    weights = [weight("weights", np.ones((4, 1), np.float32))]
    path = save_model("external", nodes, inputs, outputs, weights) / "model.onnx"
    onnx.save(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )


texts = [json.loads(line)["input"]["text"] for line in GOLDEN_SET.read_text().splitlines()]
trained = {"bpe": train_bpe(texts), "unigram": train_unigram(texts)}
release = save_quantizing_model(trained["bpe"].get_vocab_size())
trained["bpe"].save(str(release / "tokenizer.json"))
trained["unigram"].save(str(DATA / "unigram.json"))
config = {
    "model_type": "roberta",
    "max_position_embeddings": POSITIONS,
    "pad_token_id": FIRST_POSITION - 1,
}
(release / "config.json").write_text(json.dumps(config) + "\n")
save_floats_model()
save_external_model()
cases = [
    {"tokenizer": name, "text": text, "ids": tokenizer.encode(text).ids}
    for name, tokenizer in trained.items()
    for text in TEXTS
]
content = json.dumps({"tokenizers": tokenizers.__version__, "cases": cases}, separators=(",", ":"))
(DATA / "trained_token_ids.json").write_text(content.replace("},{", "},\n{") + "\n")

"""Trains tiny tokenizers, and makes tiny models of the kinds that the shipped ones are not."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as make
import tokenizers
from onnx import TensorProto, numpy_helper
from texts import TEXTS
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

HERE = Path("crates/model-server/tests/data")
GOLDEN = Path("models/sentiment/golden.jsonl")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
# With two positions that no word has, as RoBERTa counts them.
POSITIONS, FIRST_POSITION = 20, 2
WIDTH, HIDDEN, LABELS = 16, 8, 3
CHANCE = np.random.default_rng(7)


def bpe(texts: list[str]) -> tokenizers.Tokenizer:
    """Pieces of bytes, as RoBERTa has them."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram(texts: list[str]) -> tokenizers.Tokenizer:
    """The likeliest pieces, as XLM-RoBERTa has them."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def numbers(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values, name)


def given(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return make.make_tensor_value_info(name, kind, shape)


def save(name: str, nodes: list, inputs: list, outputs: list, weights: list) -> Path:
    graph = make.make_graph(nodes, name, inputs, outputs, weights)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    directory = HERE / "models" / name / "1"
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    return directory


def quantizing(words: int) -> Path:
    """A classifier that quantizes its activations by the largest of them, which some words have."""
    table = CHANCE.normal(size=(words, WIDTH)).astype(np.float32)
    table[:: 7] *= 30
    weights = [
        numbers("table", table),
        numbers("places", CHANCE.normal(size=(POSITIONS, WIDTH)).astype(np.float32)),
        numbers("mixing", CHANCE.integers(-127, 128, (WIDTH, HIDDEN)).astype(np.int8)),
        numbers("mixing_scale", np.float32(0.01)),
        numbers("classes", CHANCE.normal(size=(HIDDEN, LABELS)).astype(np.float32)),
        numbers("each_token", np.array([1], np.int64)),
        numbers("last", np.array([2], np.int64)),
    ]
    nodes = [
        make.make_node("Gather", ["table", "input_ids"], ["words"]),
        make.make_node("Gather", ["places", "position_ids"], ["positions"]),
        make.make_node("Add", ["words", "positions"], ["tokens"]),
        make.make_node("DynamicQuantizeLinear", ["tokens"], ["few_bits", "scale", "zero"]),
        make.make_node("MatMulInteger", ["few_bits", "mixing", "zero"], ["sums"]),
        make.make_node("Cast", ["sums"], ["whole"], to=TensorProto.FLOAT),
        make.make_node("Mul", ["scale", "mixing_scale"], ["both_scales"]),
        make.make_node("Mul", ["whole", "both_scales"], ["mixed"]),
        make.make_node("Tanh", ["mixed"], ["hidden"]),
        make.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        make.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        make.make_node("Mul", ["hidden", "column"], ["read"]),
        make.make_node("ReduceSum", ["read", "each_token"], ["all"], keepdims=0),
        make.make_node("ReduceSum", ["mask", "each_token"], ["count"], keepdims=1),
        make.make_node("Div", ["all", "count"], ["mean"]),
        make.make_node("MatMul", ["mean", "classes"], ["logits"]),
    ]
    names = ["input_ids", "attention_mask", "position_ids"]
    inputs = [given(name, TensorProto.INT64, ["texts", "tokens"]) for name in names]
    outputs = [given("logits", TensorProto.FLOAT, ["texts", LABELS])]
    return save("quantizing", nodes, inputs, outputs, weights)


def floats() -> None:
    """Logarithms of sums: no number for what is below 0. It takes rows of four, and does not say so."""
    weights = [numbers("weights", np.array([[1, -1], [2, 1], [0, 1], [1, 1]], np.float32))]
    nodes = [
        make.make_node("MatMul", ["x", "weights"], ["sums"]),
        make.make_node("Log", ["sums"], ["y"]),
        make.make_node("ArgMax", ["sums"], ["largest"], axis=1, keepdims=0),
    ]
    inputs = [given("x", TensorProto.FLOAT, ["rows", "columns"])]
    outputs = [
        given("y", TensorProto.FLOAT, ["rows", 2]),
        given("largest", TensorProto.INT64, ["rows"]),
    ]
    save("floats", nodes, inputs, outputs, weights)


texts = [json.loads(line)["input"]["text"] for line in GOLDEN.read_text().splitlines()]
trained = {"bpe": bpe(texts), "unigram": unigram(texts)}
release = quantizing(trained["bpe"].get_vocab_size())
trained["bpe"].save(str(release / "tokenizer.json"))
trained["unigram"].save(str(HERE / "unigram.json"))
config = {
    "model_type": "roberta",
    "max_position_embeddings": POSITIONS,
    "pad_token_id": FIRST_POSITION - 1,
}
(release / "config.json").write_text(json.dumps(config) + "\n")
floats()
cases = [
    {"tokenizer": name, "text": text, "ids": tokenizer.encode(text).ids}
    for name, tokenizer in trained.items()
    for text in TEXTS
]
content = json.dumps({"tokenizers": tokenizers.__version__, "cases": cases}, separators=(",", ":"))
(HERE / "trained_token_ids.json").write_text(content.replace("},{", "},\n{") + "\n")

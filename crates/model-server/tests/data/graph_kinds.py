"""Generates a tiny text graph of each kind that the server must serve alike for a text alone and in a batch.

The embedding of a token is a sine of its ID, so that a graph has a few KB and no table. A text's logits depend on all its
tokens and, in graphs of decoders, on their order.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
from onnx import TensorProto, numpy_helper

GRAPHS = Path("crates/model-server/tests/data/graphs")
TEXTS, TOKENS, FIXED_LENGTH, FIXED_BATCH = "texts", "tokens", 32, 8
PADDING_TOKEN, MAX_TOKENS = 1, 64
SIZE, LABELS = 8, 3


class Graph:
    """Nodes and weights in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes, self.weights, self.count = [], [], 0
        self.random = np.random.default_rng(7)

    def weight(self, values: np.ndarray) -> str:
        self.count += 1
        self.weights.append(numpy_helper.from_array(values, f"weight_{self.count}"))
        return self.weights[-1].name

    def numbers(self, *shape: int) -> str:
        return self.weight(self.random.normal(size=shape).astype(np.float32))

    def axis(self, *axes: int) -> str:
        return self.weight(np.array(axes, np.int64))

    def node(self, kind: str, *inputs: str, **attributes: int | list[int]) -> str:
        self.count += 1
        output = f"{kind}_{self.count}".lower()
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def floats(self, name: str) -> str:
        return self.node("Cast", name, to=TensorProto.FLOAT)

    def column(self, name: str) -> str:
        return self.node("Unsqueeze", name, self.axis(2))

    def waves(self, numbers: str) -> str:
        """Returns `SIZE` numbers between -1 and 1 for each number."""
        angles = self.node("Mul", self.column(numbers), self.numbers(1, 1, SIZE))
        return self.node("Sin", angles)

    def running_sum(self, name: str) -> str:
        return self.node("CumSum", name, self.weight(np.int64(1)))



def pooled(graph: Graph, pooling: str, hidden: str, ids: str, mask: str | None) -> str:
    """Returns one vector for each text."""
    if pooling == "mean" and mask is None:
        return graph.node("ReduceMean", hidden, axes=[1], keepdims=0)
    if mask is None:
        zeros = graph.node("Mul", ids, graph.weight(np.float32(0)))
        mask = graph.node("Add", zeros, graph.weight(np.float32(1)))
    read = graph.node("Mul", hidden, graph.column(mask))
    if pooling == "mean":
        total = graph.node("ReduceSum", read, graph.axis(1), keepdims=0)
        return graph.node("Div", total, graph.node("ReduceSum", mask, graph.axis(1), keepdims=1))
    # As in a decoder, each token sees itself and those before it.
    order = graph.running_sum(mask)
    at_least_one = graph.node("Max", order, graph.weight(np.float32(1)))
    seen = graph.node("Div", graph.running_sum(read), graph.column(at_least_one))
    # The last token is the same in each text, so what it sees counts more than itself.
    seen = graph.node("Add", graph.node("Mul", seen, graph.weight(np.float32(4))), hidden)
    if pooling == "last position":
        return graph.node("Gather", seen, graph.weight(np.int64(-1)), axis=1)
    padding = graph.node("Equal", ids, graph.weight(np.float32(PADDING_TOKEN)))
    order = graph.node("Mul", order, graph.floats(graph.node("Not", padding)))
    last = graph.node("ReduceMax", order, axes=[1], keepdims=1)
    chosen = graph.column(graph.floats(graph.node("Equal", order, last)))
    return graph.node("ReduceSum", graph.node("Mul", seen, chosen), graph.axis(1), keepdims=0)


def save(
    name: str,
    config: dict,
    inputs: dict[str, int],
    pooling: str = "mean",
    shape: tuple = (TEXTS, TOKENS),
    logits: int = TensorProto.FLOAT,
    inner_positions: bool = False,
    single_text: bool = False,
    nan_logits: bool = False,
) -> None:
    """Saves a classifier with these inputs and their data types, and its `config.json`."""
    graph = Graph()
    numbers = {input: graph.floats(input) for input in inputs}
    ids, mask = numbers["input_ids"], numbers.get("attention_mask")
    tokens = graph.waves(ids)
    for more in ("token_type_ids", "position_ids"):
        if more in inputs:
            tokens = graph.node("Add", tokens, graph.waves(numbers[more]))
    if inner_positions:
        zeros = graph.node("Mul", ids, graph.weight(np.float32(0)))
        ones = graph.node("Add", zeros, graph.weight(np.float32(1)))
        tokens = graph.node("Add", tokens, graph.waves(graph.running_sum(ones)))
    hidden = graph.node("Tanh", graph.node("MatMul", tokens, graph.numbers(SIZE, SIZE)))
    vectors = pooled(graph, pooling, hidden, ids, mask)
    if single_text:
        vectors = graph.node("Reshape", vectors, graph.axis(1, SIZE))
    output = graph.node("MatMul", vectors, graph.numbers(SIZE, LABELS))
    if nan_logits:
        zeros = graph.node("Mul", output, graph.weight(np.float32(0)))
        output = graph.node("Div", zeros, zeros)
    graph.nodes.append(onnx.helper.make_node("Cast", [output], ["logits"], to=logits))
    tensor = onnx.helper.make_tensor_value_info
    proto = onnx.helper.make_graph(
        graph.nodes,
        name,
        [tensor(input, data_type, shape) for input, data_type in inputs.items()],
        [tensor("logits", logits, [shape[0], LABELS])],
        graph.weights,
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    directory = GRAPHS / name
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    config = {"max_position_embeddings": MAX_TOKENS, **config}
    (directory / "config.json").write_text(json.dumps(config) + "\n")


BERT, INT64 = {"model_type": "bert"}, TensorProto.INT64
PADDED, DECODER = {"pad_token_id": PADDING_TOKEN}, {"model_type": "gpt2"}
IDS = {"input_ids": INT64}
MASKED = {**IDS, "attention_mask": INT64}

save("mask", BERT, MASKED)
save("no-mask", {**BERT, **PADDED}, IDS)
save("no-mask-no-padding-token", DECODER, IDS, "last position")
save("token-types", BERT, {**MASKED, "token_type_ids": INT64})
save("positions", {"model_type": "roberta", "max_position_embeddings": MAX_TOKENS + 2}, {**MASKED, "position_ids": INT64})
save("decoder", {**DECODER, **PADDED}, MASKED, "last token", inner_positions=True)
save("decoder-without-mask", {**DECODER, **PADDED}, IDS, "last token")
save("decoder-without-padding-token", DECODER, MASKED, "last position")
save("left-padding", {**DECODER, **PADDED}, {**MASKED, "position_ids": INT64}, "last position")
save("left-padding-moves-positions", {**DECODER, **PADDED}, MASKED, "last position", inner_positions=True)
save("fixed-length", BERT, MASKED, shape=(TEXTS, FIXED_LENGTH))
save("fixed-length-without-mask", {**BERT, **PADDED}, IDS, shape=(TEXTS, FIXED_LENGTH))
save("fixed-batch", BERT, MASKED, shape=(FIXED_BATCH, TOKENS))
save("fixed-batch-and-length", BERT, MASKED, shape=(FIXED_BATCH, FIXED_LENGTH))
save("single-text-declared", BERT, MASKED, shape=(1, FIXED_LENGTH))
save("single-text-undeclared", BERT, MASKED, single_text=True)
save("int32", BERT, {**dict.fromkeys(MASKED, TensorProto.INT32), "token_type_ids": TensorProto.INT32})
save("fp32-mask", BERT, {**IDS, "attention_mask": TensorProto.FLOAT})
save("bool-mask", BERT, {**IDS, "attention_mask": TensorProto.BOOL})
save("fp32-inputs", BERT, dict.fromkeys(MASKED, TensorProto.FLOAT))
save("fp16-logits", BERT, MASKED, logits=TensorProto.FLOAT16)
save("fp64-logits", BERT, MASKED, logits=TensorProto.DOUBLE)
save("bf16-logits", BERT, MASKED, logits=TensorProto.BFLOAT16)
save("multi-label", {**BERT, "problem_type": "multi_label_classification"}, MASKED)
save("nan-logits", BERT, MASKED, nan_logits=True)

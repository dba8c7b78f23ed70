"""Write a trained model as ONNX, optionally with 8-bit weights."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from data import LABELS
from models import MAX_TOKENS

OPSET = 14
# Small tensors (biases, norms, the head) are not worth quantizing.
MIN_QUANTIZED_ELEMENTS = 10_000


def export_onnx(model: nn.Module, path: Path) -> None:
    """Export with dynamic batch and sequence axes."""
    model.eval()
    example = torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]])
    torch.onnx.export(
        model,
        (example, (example != 0).long()),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={
            "input_ids": {0: "batch", 1: "sequence"},
            "attention_mask": {0: "batch", 1: "sequence"},
            "logits": {0: "batch"},
        },
        opset_version=OPSET,
        dynamo=False,
    )
    graph = onnx.load(str(path))
    onnx.checker.check_model(graph)
    # The exporter records source locations, which a server does not need.
    for node in graph.graph.node:
        node.doc_string = ""
    onnx.save(graph, str(path))


def quantize(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric 8-bit values, and one scale per index of `axis`."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.round(values / scale).astype(np.int8), scale.reshape(-1)


def quantize_weights(path: Path) -> None:
    """Store large weights as int8. A DequantizeLinear node restores each of them.

    Activations stay float32. Dynamic quantization would derive their range from the whole
    batch, so an answer would depend on the other texts in the batch.
    """
    model = onnx.load(str(path))
    graph = model.graph
    # Quantize along the axis that keeps one scale per output (or per word).
    axes = {}
    for node in graph.node:
        if node.op_type == "MatMul":
            axes[node.input[1]] = 1
        elif node.op_type in ("Gather", "Slice"):  # word and position embeddings
            axes[node.input[0]] = 0
    dequantize_nodes = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.name not in axes or values.size < MIN_QUANTIZED_ELEMENTS:
            continue
        axis = axes[tensor.name]
        quantized, scale = quantize(values, axis)
        name = tensor.name
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(quantized, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        dequantize_nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}.int8", f"{name}.scale"],
                [name],
                name=f"{name}.dequantize",
                axis=axis,
            )
        )
    # Nodes must be in topological order. The inputs of these are only weights, so they come first.
    nodes = [*dequantize_nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_config(folder: Path, vocab_size: int, details: dict) -> None:
    config = {
        **details,
        "id2label": {str(index): label for index, label in enumerate(LABELS)},
        "label2id": {label: index for index, label in enumerate(LABELS)},
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": 0,
        "problem_type": "single_label_classification",
        "vocab_size": vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

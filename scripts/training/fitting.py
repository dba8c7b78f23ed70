"""Batching and the training loop."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from data import SEED, Sentence


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training."""

    epochs: int
    learning_rate: float
    batch_size: int = 32
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    # The slope of the sigmoid that turns ratings into probabilities: see `soft_targets`.
    rating_slope: float = 1.5


@dataclass
class Example:
    ids: list[int]
    target: Tensor  # probability of (negative, positive)


def soft_targets(sentences: list[Sentence], slope: float) -> Tensor:
    """Return the ratings as probabilities. A rating of 3 is more certain than one of 0.5."""
    ratings = torch.tensor([sentence.rating for sentence in sentences])
    positive = torch.sigmoid(slope * ratings)
    return torch.stack([1 - positive, positive], dim=1)


def collate(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad the rows with ID 0 to the longest. Return (input_ids, attention_mask)."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask


def batches(
    examples: list[Example], size: int, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield random batches of texts with similar lengths, which need less padding and time."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    window = size * 32
    groups = []
    for start in range(0, len(order), window):
        chunk = sorted(order[start : start + window], key=lambda i: len(examples[i].ids))
        groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(groups)
    for group in groups:
        ids, mask = collate([examples[i].ids for i in group])
        yield ids, mask, torch.stack([examples[i].target for i in group])


def make_examples(tokenizer: Tokenizer, sentences: list[Sentence], recipe: Recipe) -> list[Example]:
    targets = soft_targets(sentences, recipe.rating_slope)
    rows = [e.ids for e in tokenizer.encode_batch([sentence.text for sentence in sentences])]
    return [Example(ids, target) for ids, target in zip(rows, targets, strict=True)]


def train(model: nn.Module, examples: list[Example], recipe: Recipe, name: str) -> None:
    """Minimize cross-entropy against the soft targets."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    # Biases and norms are few, and weight decay would harm them.
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
    )
    steps = recipe.epochs * -(-len(examples) // recipe.batch_size)
    warmup = max(1, round(recipe.warmup_share * steps))

    def schedule(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for epoch in range(recipe.epochs):
        model.train()
        total = 0.0
        for ids, mask, target in batches(examples, recipe.batch_size, rng):
            # Matrix products in bfloat16 are several times faster if the processor
            # supports it. The weights and the result stay float32.
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(ids, mask)
            loss = functional.cross_entropy(logits.float(), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(target)
        mean = total / len(examples)
        print(f"{name}: epoch {epoch + 1}/{recipe.epochs}, loss {mean:.4f}", flush=True)

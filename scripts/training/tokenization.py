"""Make both tokenizers: one is learned from the training texts, and one is trimmed from BERT's."""

import json
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from models import MAX_TOKENS

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def assemble(vocab: dict[str, int]) -> Tokenizer:
    """Return an uncased BERT-style tokenizer with this vocabulary."""
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    # With the two markers, an empty text is not an empty sequence.
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def learn_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Return the tokenizer of v1, with a vocabulary learned only from the training texts."""
    learner = Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = BertNormalizer(lowercase=True)
    learner.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    # The trainer numbers some pieces in random order. Sorting makes runs comparable.
    pieces = sorted(set(learner.get_vocab()) - set(SPECIAL_TOKENS))
    return assemble({token: index for index, token in enumerate([*SPECIAL_TOKENS, *pieces])})


def trim_tokenizer(base: Path, texts: list[str], vocab_size: int) -> tuple[Tokenizer, list[int]]:
    """Return the tokenizer of v2 with a trimmed vocabulary, and the original IDs of its pieces.

    It keeps the special tokens, and the single characters of Western text, so that every word
    can be spelled. Then come the pieces of the training texts, the most frequent first, and then
    the other pieces in the original order.
    """
    original = Tokenizer.from_file(str(base / "tokenizer.json"))
    original.no_truncation()
    original.no_padding()
    vocab = original.get_vocab()
    uses = Counter(token for encoding in original.encode_batch(texts) for token in encoding.tokens)
    ranked = sorted(vocab, key=lambda token: (-uses[token], vocab[token]))
    characters = [
        token
        for token in sorted(vocab, key=vocab.get)
        if len(character := token.removeprefix("##")) == 1 and (ord(character) < 128 or uses[token])
    ]
    candidates = [*SPECIAL_TOKENS, *characters, *ranked]
    unused = {token for token in vocab if token.startswith("[") and token not in SPECIAL_TOKENS}
    unused.discard("[")
    kept = [token for token in dict.fromkeys(candidates) if token not in unused][:vocab_size]
    return assemble({token: index for index, token in enumerate(kept)}), [
        vocab[token] for token in kept
    ]


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    # Compact JSON, because the vocabulary makes the file large.
    content = json.loads(tokenizer.to_str())
    path.write_text(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )

"""Builds small tokenizers as transformers writes them for each family, and hashes their token IDs."""

import gzip
import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
import tokenizers
import transformers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import (
    DebertaV2Converter,
    SentencePieceExtractor,
    SpmConverter,
    XLMRobertaConverter,
)

DATA = Path("crates/model-server/tests/data")
OUTPUT = DATA / "families"
GOLDEN_SET = Path("models/sentiment/golden.jsonl")
RANDOM = random.Random(7)
TEXTS, EXAMPLES, MAX_TOKENS, VOCABULARY_SIZE = 1000, 10, 128, 700

# The families with which every way to truncate is compared.
TRUNCATED = ("bert", "roberta", "t5")
# Tokens that a user adds, with every flag that moves their borders.
ADDED_TOKENS = [
    AddedToken("<url>"),
    AddedToken("<num>", lstrip=True, rstrip=True),
    AddedToken("co-op", single_word=True),
    AddedToken("Not Good", normalized=True),
    AddedToken("<Raw>", normalized=False, rstrip=True),
]
SPECIALS = [
    "<url>", "<num>", "co-op", "Not Good", "<Raw>", "<raw>", "[MASK]", "[CLS]", "[SEP]", "[UNK]", "<mask>", "<s>",
    "</s>", "<pad>", "<unk>", "<|endoftext|>", "<|begin_of_text|>", "<extra_id_7>",
]  # fmt: skip
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\xa0", "\u2003", "\u3000", "\u2028", "\x85", "\u200b", ""]
EMOJI = ["👍🏽", "👨‍👩‍👧‍👦", "👩🏿‍🔬", "🏳️‍🌈", "🇩🇪", "❤️", "☺", "1️⃣", "🎬"]
BLOCKS = {
    "accents": [(0xC0, 0x24F), (0x300, 0x36F), (0x1E00, 0x1EFF), (0x61, 0x7A)],
    "cjk": [(0x4E00, 0x9FFF), (0x3040, 0x30FF), (0xAC00, 0xD7A3), (0x3000, 0x303F), (0x20000, 0x20100)],
    "right_to_left": [(0x5D0, 0x5EA), (0x620, 0x655), (0x200E, 0x200F), (0x202A, 0x202E)],
    "controls": [(0x0, 0x20), (0x7F, 0xA0), (0x200B, 0x200F), (0xFEFF, 0xFEFF), (0x61, 0x7A)],
    "indic": [(0x905, 0x94D), (0xE01, 0xE5B)],
    "compatibility": [(0xFB00, 0xFB06), (0xFF01, 0xFF5E), (0x2100, 0x218F), (0x3380, 0x33DF), (0x1D400, 0x1D4FF)],
    "punctuation": [(0x21, 0x40), (0x5B, 0x60), (0x2010, 0x206F), (0x2E00, 0x2E52)],
    "anything": [(0x20, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF)],
}  # fmt: skip


def word(kind: str) -> str:
    """Returns some characters of a block, or a token, an emoji, or a long run."""
    if kind == "token":
        return RANDOM.choice(SPECIALS)
    if kind == "emoji":
        return RANDOM.choice(EMOJI) * RANDOM.randint(1, 2)
    if kind == "english":
        text = RANDOM.choice(RANDOM.choice(SENTENCES).split())
        return RANDOM.choice([text, text, text.upper(), text.capitalize()])
    if kind == "run":
        return RANDOM.choice(["a", "!", "字", "é", " ", "\n", "▁", "##", "👍"]) * RANDOM.randint(2, 150)
    blocks = BLOCKS[kind]
    return "".join(chr(RANDOM.randint(*RANDOM.choice(blocks))) for _ in range(RANDOM.randint(1, 8)))


def make_text(number: int) -> str:
    """Returns a text of one kind of words, or of all kinds for every third number."""
    kinds = ["token", "emoji", "english", "run", *BLOCKS]
    if number % 3:
        kinds = [kinds[number % len(kinds)], "english"]
    while True:
        words = [word(RANDOM.choice(kinds)) for _ in range(RANDOM.randint(1, 9))]
        text = "".join(it + RANDOM.choice([" ", RANDOM.choice(SPACES)]) for it in words)
        if text.strip():
            return text if RANDOM.randint(0, 1) else text.strip()


def train_byte_level(special: list[str]) -> dict:
    """Trains the vocabulary and the merges of a byte-level BPE."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def choose_word_pieces() -> dict[str, int]:
    """Chooses frequent words and endings, because the training of WordPiece is not deterministic."""
    words = Counter(word for it in SENTENCES for word in re.findall(r"\w+|[^\w\s]", f"{it} {it.lower()}"))
    endings = Counter()
    for text, count in words.items():
        for length in range(1, 4):
            if len(text) > length:
                endings[f"##{text[-length:]}"] += count
    characters = sorted({character for text in words for character in text})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{it}" for it in characters)]
    for counts in (endings, words):
        frequent = sorted(counts, key=lambda it: (-counts[it], it))
        pieces += frequent[: VOCABULARY_SIZE // 3]
    return {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}


def train_sentence_piece(name: str, **options) -> Path:
    prefix = Path(tempfile.gettempdir()) / f"model-server-{name}"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(prefix),
        vocab_size=VOCABULARY_SIZE,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return prefix.with_suffix(".model")


def from_class(name: str, **arguments) -> tokenizers.Tokenizer:
    return getattr(transformers, name)(**arguments).backend_tokenizer


def from_converter(
    converter: type[SpmConverter], vocab_file: Path, **attributes
) -> tokenizers.Tokenizer:
    """Converts a SentencePiece model as transformers 4 does, whose converters transformers 5 still has."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
    original = SimpleNamespace(
        vocab_file=str(vocab_file),
        convert_tokens_to_ids=processor.piece_to_id,
        convert_ids_to_tokens=processor.id_to_piece,
        **attributes,
    )
    return converter(original).converted()


def unigram(model: Path, first: list[str]) -> dict:
    """Returns the arguments of a tokenizer's class, with its own special tokens first."""
    extracted = SentencePieceExtractor(str(model)).extract(models.Unigram)
    pieces = [piece for piece in extracted["vocab"] if piece[0] not in ("<unk>", "<s>", "</s>")]
    return {
        "vocab": [(token, 0.0) for token in first] + pieces,
        "_spm_precompiled_charsmap": extracted["_spm_precompiled_charsmap"],
    }


def build_families() -> dict[str, tokenizers.Tokenizer]:
    word_piece = choose_word_pieces()
    roberta = train_byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    bracketed = train_byte_level(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    gpt2 = train_byte_level(["<|endoftext|>"])
    spm = train_sentence_piece("unigram", model_type="unigram")
    deberta = train_sentence_piece(
        "deberta",
        model_type="unigram",
        pad_id=0,
        pad_piece="[PAD]",
        bos_id=1,
        bos_piece="[CLS]",
        eos_id=2,
        eos_piece="[SEP]",
        unk_id=3,
        unk_piece="[UNK]",
    )
    llama = train_sentence_piece("llama", model_type="bpe", byte_fallback=True, normalization_rule_name="identity")
    llama_arguments = SentencePieceExtractor(str(llama)).extract(models.BPE)
    llama_arguments = {key: llama_arguments[key] for key in ("vocab", "merges")}
    v3 = unigram(deberta, [])
    v3.pop("_spm_precompiled_charsmap")
    families = {
        "bert": from_class("BertTokenizer", vocab=word_piece),
        "bert-cased": from_class("BertTokenizer", vocab=word_piece, do_lower_case=False),
        "roberta": from_class("RobertaTokenizer", **roberta),
        "roberta-prefix-space": from_class("RobertaTokenizer", add_prefix_space=True, **roberta),
        "deberta": from_class("DebertaTokenizer", **bracketed),
        "deberta-v3": from_class("DebertaV2Tokenizer", unk_id=3, **v3),
        "deberta-v3-punctuation": from_class(
            "DebertaV2Tokenizer", unk_id=3, split_by_punct=True, do_lower_case=True, **v3
        ),
        "deberta-v3-converted": from_converter(
            DebertaV2Converter, deberta, do_lower_case=False, split_by_punct=False
        ),
        "xlm-roberta": from_class("XLMRobertaTokenizer", **unigram(spm, ["<s>", "<pad>", "</s>", "<unk>"])),
        "xlm-roberta-converted": from_converter(XLMRobertaConverter, spm),
        "albert": from_class("AlbertTokenizer", **unigram(spm, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])),
        "t5": from_class("T5Tokenizer", **unigram(spm, ["<pad>", "</s>", "<unk>"])),
        "gpt2": from_class("GPT2Tokenizer", **gpt2),
        "gpt2-prefix-space": from_class("GPT2Tokenizer", add_prefix_space=True, **gpt2),
        "llama": from_class("LlamaTokenizer", add_bos_token=True, **llama_arguments),
        "llama-normalizer": build_llama_2(llama_arguments),
        "llama-3": build_llama_3(gpt2),
        "clip": build_clip(),
        "word-level": build_word_level(),
    }
    for tokenizer in families.values():
        tokenizer.add_tokens(ADDED_TOKENS)
    return families


def build_llama_2(arguments: dict) -> tokenizers.Tokenizer:
    """Builds a tokenizer of the structure that transformers 4 writes for Llama 2."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(**arguments, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.add_special_tokens([AddedToken(it, normalized=False) for it in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def build_llama_3(byte_level: dict) -> tokenizers.Tokenizer:
    """Builds a tokenizer of the structure of Llama 3, which no class of transformers writes by itself."""
    tokenizer = tokenizers.Tokenizer(models.BPE(**byte_level, ignore_merges=True))
    split = tokenizers.Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(["<|begin_of_text|>"])
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A",
                pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                special_tokens=[("<|begin_of_text|>", begin)],
            ),
        ]
    )
    return tokenizer


def build_clip() -> tokenizers.Tokenizer:
    """Trains a BPE with endings of words, as CLIP has."""
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE + 256,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return from_class("CLIPTokenizer", vocab=model["vocab"], merges=[tuple(it) for it in model["merges"]])


def build_word_level() -> tokenizers.Tokenizer:
    """Builds a tokenizer of the normalizers and pre-tokenizers that no family has."""
    words = Counter(it for text in SENTENCES for it in re.findall(r"[A-Za-z]+|[^\w\s]|\d", text))
    frequent = sorted(words, key=lambda it: (-words[it], it))[:VOCABULARY_SIZE]
    vocabulary = {it: place for place, it in enumerate(["[UNK]", *frequent])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.UnicodeScripts(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.CharDelimiterSplit("▁"),
            pre_tokenizers.FixedLength(12),
        ]
    )
    return tokenizer


def digest(encoding: tokenizers.Encoding) -> str:
    """Hashes the token IDs and the sentences of the tokens."""
    numbers = ",".join(map(str, [*encoding.ids, *encoding.type_ids]))
    return hashlib.sha256(numbers.encode()).hexdigest()[:16]


def truncate_pairs(tokenizer: tokenizers.Tokenizer, pairs: list[tuple[str, str]]) -> list[dict]:
    """Hashes the pairs for each way to truncate them."""
    truncated = []
    for strategy in ("longest_first", "only_first", "only_second"):
        for direction in ("left", "right"):
            tokenizer.enable_truncation(24, strategy=strategy, direction=direction)
            hashes = []
            for pair in pairs:
                try:
                    hashes.append(digest(tokenizer.encode(*pair)))
                except Exception as error:
                    assert "too short" in str(error), error
                    hashes.append(None)
            truncation = json.loads(tokenizer.to_str())["truncation"]
            truncated.append({"truncation": truncation, "pairs": hashes})
    return truncated


def write(name: str, content: object) -> None:
    """Writes compressed JSON, whose bytes depend only on the content."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    (OUTPUT / f"{name}.json.gz").write_bytes(gzip.compress(data, mtime=0))


def main() -> None:
    texts = [make_text(number) for number in range(TEXTS)]
    OUTPUT.mkdir(exist_ok=True)
    write("texts", texts)
    for name, tokenizer in build_families().items():
        file = tokenizer.to_str()
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)
        encoded = [tokenizer.encode(text) for text in texts]
        # Each text and the next one.
        pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
        encoded_pairs = [tokenizer.encode(*pair) for pair in pairs]
        content = {
            "tokenizers": tokenizers.__version__,
            "transformers": transformers.__version__,
            "tokenizer": json.loads(file),
            "ids": [it.ids for it in encoded[:EXAMPLES]],
            "texts": [digest(it) for it in encoded],
            "pairs": [digest(it) for it in encoded_pairs],
            "truncated": truncate_pairs(tokenizer, pairs[:40]) if name in TRUNCATED else [],
        }
        write(name, content)


SENTENCES = [json.loads(line)["input"]["text"] for line in GOLDEN_SET.read_text().splitlines()]

if __name__ == "__main__":
    main()

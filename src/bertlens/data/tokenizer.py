"""Text into word pieces, each with its place in the text as the reviewer wrote it.

Cleaning, lower-casing and splitting all run inside the `tokenizers` pipeline (in Rust), which keeps the offsets into
the original through every replacement. WordPiece: Wu et al. 2016, section 4.1; longest match first, as in BERT.
Left out: pairs of texts, training a vocabulary.
"""

import hashlib
import json
import logging
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from rich.progress import track
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from bertlens.errors import InputError
from bertlens.system.files import atomic_write

log = logging.getLogger(__name__)

CLEANINGS = ("notebook", "none")
TRUNCATIONS = ("head", "tail", "head_tail")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# of a review that is cut in the middle, the first quarter of the budget is its head (Sun et al. 2019, section 5.3.1)
HEAD_SHARE = 0.25
TEXTS_PER_BATCH = 1000  # what is tokenized at once, in as many threads as there are cores


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How a text becomes word pieces. Part of every checkpoint: plain types only."""

    cleaning: str = "notebook"
    truncation: str = "head"
    max_length: int = 256
    lowercase: bool = True

    def __post_init__(self) -> None:
        if self.cleaning not in CLEANINGS:
            raise InputError(f"data.cleaning={self.cleaning!r}: choose one of {', '.join(CLEANINGS)}")
        if self.truncation not in TRUNCATIONS:
            raise InputError(f"data.truncation={self.truncation!r}: choose one of {', '.join(TRUNCATIONS)}")
        if self.max_length < 3:
            raise InputError(f"data.max_length={self.max_length}: at least 3, for [CLS], one word piece and [SEP]")


@dataclass(frozen=True)
class Encoding:
    """One text's word pieces. An offset is (start, end) in characters of the original; (0, 0) for [CLS] and [SEP]."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


def read_vocabulary(path: Path) -> list[str]:
    """The word pieces of a `vocab.txt`, by id. Raises `InputError` if it is not one."""
    try:
        vocabulary = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; model.pretrained needs a vocab.txt") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); fetch the file again") from error
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)} in it; is it the vocabulary of a BERT model?")
    if len(set(vocabulary)) != len(vocabulary):
        raise InputError(f"{path}: the same word piece stands on two lines; fetch the file again")
    return vocabulary


class ReviewTokenizer:
    """WordPiece with the chosen cleaning and truncation: `[CLS] … [SEP]`, `max_length` pieces at most with both."""

    def __init__(self, vocabulary: Sequence[str], settings: TokenizerSettings) -> None:
        self.vocabulary = list(vocabulary)
        self.settings = settings
        ids = {token: index for index, token in enumerate(self.vocabulary)}
        self.pad_id, _, self.cls_id, self.sep_id = (ids[token] for token in SPECIAL_TOKENS)
        steps: list[normalizers.Normalizer] = []
        if settings.cleaning == "notebook":
            removed = "".join(mark for mark in string.punctuation if mark not in ".,")
            replaced = "".join(f"\\x{{{ord(mark):x}}}" for mark in removed)
            steps = [normalizers.Replace("<br />", ""), normalizers.Replace(Regex(f"[{replaced}]"), " ")]
        steps.append(normalizers.BertNormalizer(lowercase=settings.lowercase))
        self._pipeline = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        self._pipeline.normalizer = normalizers.Sequence(steps)
        self._pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides a text's ids."""
        content = json.dumps([self.vocabulary, asdict(self.settings)])
        return hashlib.sha256(content.encode()).hexdigest()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The word-piece ids of each text."""
        encoded = self._pipeline.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[self.cls_id, *self._cut(row.ids), self.sep_id] for row in encoded]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The same with tokens and offsets, for showing."""
        encoded = self._pipeline.encode_batch(list(texts), add_special_tokens=False)
        return [
            Encoding(
                ids=[self.cls_id, *self._cut(row.ids), self.sep_id],
                tokens=["[CLS]", *self._cut(row.tokens), "[SEP]"],
                offsets=[(0, 0), *self._cut(row.offsets), (0, 0)],
            )
            for row in encoded
        ]

    def _cut(self, pieces: list[Any]) -> list[Any]:
        budget = self.settings.max_length - 2
        if len(pieces) <= budget:
            return pieces
        if self.settings.truncation == "head":
            return pieces[:budget]
        head = 0 if self.settings.truncation == "tail" else int(budget * HEAD_SHARE)
        return pieces[:head] + pieces[len(pieces) - (budget - head) :]


@dataclass(frozen=True)
class WordPieces:
    """The ids of many reviews end to end: review r is `ids[starts[r]:starts[r + 1]]`."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    pad_id: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def digest(self, more: str) -> str:
        """Of the ids, of where each review begins, and of what `more` a result depends on."""
        digest = xxhash.xxh3_128(self.ids.tobytes())
        digest.update(self.starts.tobytes())
        digest.update(more.encode())
        return digest.hexdigest()


def tokenize(reviews: datasets.Dataset, tokenizer: ReviewTokenizer, cache: Path, *, split: str) -> WordPieces:
    """The word pieces of a split, made once and then read back memory-mapped from `cache`.

    The file's name is a hash of the texts and of all that decides their ids, so a stale one is never read. A digest of
    its bytes lies beside it, written last, so neither is a damaged one.
    """
    texts = reviews["text"]
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text.encode("utf-8", "surrogatepass"))
    path = cache / f"{digest.hexdigest()[:32]}.arrow"
    column = _read_column(path)
    if column is None:
        content = _encoded(tokenizer, texts, split=split)
        with atomic_write(path) as file:
            file.write(content)
        with atomic_write(_digest_path(path), "w") as record:
            record.write(xxhash.xxh3_128_hexdigest(content))
        column = _column(content)
    starts = column.offsets.to_numpy().astype(np.int64)
    return WordPieces(ids=column.values.to_numpy(), starts=starts, pad_id=tokenizer.pad_id)


def _encoded(tokenizer: ReviewTokenizer, texts: Sequence[str], *, split: str) -> pa.Buffer:
    """A stream of Arrow batches with a list of ids a review."""
    schema = pa.schema({"input_ids": pa.list_(pa.int32())})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, schema) as writer:
        starts = range(0, len(texts), TEXTS_PER_BATCH)
        for start in track(starts, description=f"word pieces of {split}", transient=True):
            ids = tokenizer.ids(texts[start : start + TEXTS_PER_BATCH])
            writer.write_batch(pa.record_batch([pa.array(ids, schema.field(0).type)], schema=schema))
    return stream.getvalue()


def _column(content: pa.Buffer) -> pa.ListArray:
    return pa.ipc.open_stream(content).read_all().column("input_ids").combine_chunks()


def _read_column(path: Path) -> pa.ListArray | None:
    """What was written; None if it is to be made, or made anew because it is not what was written."""
    try:
        expected = _digest_path(path).read_text(encoding="utf-8")
        mapped = pa.memory_map(str(path)).read_buffer()
    except (OSError, ValueError):
        return None
    if xxhash.xxh3_128_hexdigest(mapped) != expected:
        log.warning("data: %s is damaged; it will be made anew", path)
        return None
    return _column(mapped)


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".xxh3")

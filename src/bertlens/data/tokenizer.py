"""Split texts into word pieces, each with its offsets in the original text.

Cleaning, lower-casing and splitting run inside the `tokenizers` pipeline (in Rust), which keeps the offsets into the
original text through every replacement. WordPiece: Wu et al. 2016, section 4.1; longest match first, as in BERT.
Left out: pairs of texts, training a vocabulary.
"""

import hashlib
import itertools
import json
import logging
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.system import stopping
from bertlens.system.files import atomic_write

Digests = npt.NDArray[np.void]

log = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# truncation=head_tail keeps the first quarter of the budget from the beginning (Sun et al. 2019, section 5.3.1)
HEAD_SHARE = 0.25
TEXTS_PER_BATCH = 1000  # the pipeline tokenizes a batch with one thread per core


@dataclass(frozen=True)
class Encoding:
    """The word pieces of one text. Offsets are (start, end) in its characters, and (0, 0) for [CLS] and [SEP]."""

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


def read_vocabulary(path: Path) -> list[str]:
    """Return the word pieces of a `vocab.txt` in the order of their ids. Raises `InputError` for any other file."""
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
        raise InputError(f"{path}: two lines hold the same word piece; fetch the file again")
    return vocabulary


class ReviewTokenizer:
    """Turn a text into `[CLS] … [SEP]`: at most `max_length` word pieces, both included.

    Of the settings it reads `cleaning`, `truncation`, `max_length` and `lowercase`, which must not be None here.
    """

    def __init__(self, vocabulary: Sequence[str], settings: DataSettings) -> None:
        assert settings.lowercase is not None
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

    @cached_property
    def mask_id(self) -> int:
        """The id of `[MASK]`. Raises `InputError` for a vocabulary without it; nothing else needs it."""
        if "[MASK]" not in self.vocabulary:
            raise InputError("the model's vocab.txt has no [MASK], which is needed in place of words")
        return self.vocabulary.index("[MASK]")

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the ids of a text."""
        keys = ("cleaning", "truncation", "max_length", "lowercase")
        content = json.dumps([self.vocabulary, {key: getattr(self.settings, key) for key in keys}])
        return hashlib.sha256(content.encode()).hexdigest()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the word-piece ids of each text."""
        encoded = self._pipeline.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[self.cls_id, *self._cut(text.ids), self.sep_id] for text in encoded]

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Return the ids, tokens and offsets of each text."""
        encoded = self._pipeline.encode_batch(list(texts), add_special_tokens=False)
        return [
            Encoding(
                ids=[self.cls_id, *self._cut(text.ids), self.sep_id],
                tokens=["[CLS]", *self._cut(text.tokens), "[SEP]"],
                offsets=[(0, 0), *self._cut(text.offsets), (0, 0)],
            )
            for text in encoded
        ]

    def pieces(self, texts: Sequence[str]) -> "WordPieces":
        """Return the word pieces of at least one text."""
        ids = self.ids(texts)
        starts = np.cumsum([0, *map(len, ids)])
        return WordPieces(ids=np.concatenate(ids).astype(np.int32), starts=starts, pad_id=self.pad_id)

    def portable(self) -> Tokenizer:
        """Return all of it as one `tokenizers.Tokenizer`; but truncation=head_tail, which that cannot say."""
        made = Tokenizer.from_str(self._pipeline.to_str())
        special = [("[CLS]", self.cls_id), ("[SEP]", self.sep_id)]
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
        made.decoder = decoders.WordPiece()
        if self.settings.truncation != "head_tail":
            side = "left" if self.settings.truncation == "tail" else "right"
            made.enable_truncation(self.settings.max_length, direction=side)
        return made

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
    """The ids of many reviews, one after the other: review r has `ids[starts[r] : starts[r + 1]]`."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    pad_id: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def digests(self) -> Digests:
        """A digest of each review's ids [R], 16 bytes: nobody can write two reviews with the same one."""
        ids, bounds = memoryview(self.ids.astype("<i4").tobytes()), (4 * self.starts).tolist()
        pairs = itertools.pairwise(bounds)
        return np.array([hashlib.blake2b(ids[start:end], digest_size=16).digest() for start, end in pairs], dtype="V16")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def digest(self, more: str) -> str:
        """Return a hash of the ids, of the reviews' starts and of the text `more`."""
        digest = xxhash.xxh3_128(self.ids.tobytes())
        digest.update(self.starts.tobytes())
        digest.update(more.encode())
        return digest.hexdigest()


def tokenize(reviews: datasets.Dataset, tokenizer: ReviewTokenizer, cache: Path, *, split: str) -> WordPieces:
    """Return the word pieces of a split, memory-mapped from `cache` if it was tokenized before.

    The file is named by a hash of the texts and of everything that decides their ids, so an outdated file is never
    read. A digest of its bytes lies beside it and is written last, so a damaged file is never read either.
    """
    texts = reviews["text"]
    name = hashlib.sha256(tokenizer.fingerprint.encode())
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        for text in texts[start : start + TEXTS_PER_BATCH]:
            name.update(len(text).to_bytes(8, "little"))
            name.update(text.encode("utf-8", "surrogatepass"))
    path = cache / f"{name.hexdigest()[:32]}.arrow"
    content = _read_verified(path)
    if content is None:
        content = _tokenize_texts(tokenizer, texts, split=split)
        with atomic_write(path) as file:
            file.write(content)
        with atomic_write(_digest_path(path), "w") as record:
            record.write(xxhash.xxh3_128_hexdigest(content))
    column = pa.ipc.open_stream(content).read_all().column("input_ids").combine_chunks()
    starts = column.offsets.to_numpy().astype(np.int64)
    return WordPieces(ids=column.values.to_numpy(), starts=starts, pad_id=tokenizer.pad_id)


def _tokenize_texts(tokenizer: ReviewTokenizer, texts: Sequence[str], *, split: str) -> pa.Buffer:
    """Return an Arrow stream with one list of ids per review."""
    schema = pa.schema({"input_ids": pa.list_(pa.int32())})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, schema) as writer:
        starts = range(0, len(texts), TEXTS_PER_BATCH)
        shown = sys.stdout.isatty()
        for start in track(starts, description=f"word pieces of {split}", transient=True, disable=not shown):
            stopping.check()
            ids = tokenizer.ids(texts[start : start + TEXTS_PER_BATCH])
            writer.write_batch(pa.record_batch([pa.array(ids, schema.field(0).type)], schema=schema))
    return stream.getvalue()


def _read_verified(path: Path) -> pa.Buffer | None:
    """Return the content of a cached file, memory-mapped, or None if the file is missing or damaged."""
    try:
        expected = _digest_path(path).read_text(encoding="utf-8")
        content = pa.memory_map(str(path)).read_buffer()
    except (OSError, ValueError):
        return None
    if xxhash.xxh3_128_hexdigest(content) != expected:
        log.warning("data: %s is damaged and will be written again", path)
        return None
    return content


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".xxh3")

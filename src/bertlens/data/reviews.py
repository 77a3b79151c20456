"""Where reviews come from: the hub, a local folder, own files or the demo, each to the same three splits.

Every source becomes Arrow tables with a `text` and a `label`, both strings; classes are numbered once, at the end, so
that train and test agree however a file stored its labels.

The tables are read into memory instead of through the file loaders of `datasets`: those guess types (a label "01"
becomes 1, a review "NA" becomes missing) and keep a cache that looks at a file's time and not at what it holds. Reading
is strict and takes about a second for IMDb's 66 MB; what is worth keeping on disk is what the tokenizer makes of it.
"""

import csv
import difflib
import gzip
import io
import itertools
import json
import logging
import re
import reprlib
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from numpy.typing import NDArray

from bertlens.data.demo import generate
from bertlens.errors import InputError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
SOURCES = ("hub", "local", "files", "demo")
STRING_KINDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
CLASS_NAMES = ["negative", "positive"]
CLASS_FOLDERS = ("neg", "pos")
SPELLINGS = [[*CLASS_FOLDERS], ["0", "1"]]
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can write it, and it is no text
COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.\w+")
ARCHIVE_ENDINGS = (".tar.gz", ".tgz")
ARCHIVED_REVIEW = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d{1,9}_\d{1,9}\.txt)", re.ASCII)
MAX_ARCHIVED_REVIEW = 2**20  # bytes; the longest of IMDb has 14 thousand
MAX_ARCHIVE = 2**30  # bytes unpacked; the official one has a third of that
SPLIT_IN_FILE_NAME = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])")


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """The `data` keys that say which reviews to read; conf/data describes each."""

    source: str = "hub"
    path: str | None = None
    hub_name: str = "stanfordnlp/imdb"
    hub_revision: str = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    header: bool = True
    max_reviews: int | None = None
    validation_fraction: float = 0.2
    seed: int = 1234
    num_demo_reviews: int = 3000


def load_reviews(settings: ReviewSettings) -> datasets.DatasetDict:
    """Splits train, validation and test with `text` and `label` (the demo: `spans` too, pairs of character offsets).

    A source without a validation split gives up `validation_fraction` of train: stratified, drawn with `seed`, and
    never with a text that train keeps. Raises InputError for whatever cannot be used.
    """
    check_reviews(settings)
    source = "local" if settings.path is not None else settings.source
    tables = {"hub": _hub, "local": _local, "files": _own_files, "demo": _demo}[source](settings)
    if pc.all(_is_blank(tables["train"]["text"])).as_py():
        raise InputError(f"every train review is empty: is data.text_column={settings.text_column!r} the right one?")
    names = _class_names(tables)
    if "validation" not in tables:
        tables["train"], tables["validation"] = _split(tables["train"], settings.validation_fraction, settings.seed)
    if settings.max_reviews is not None:
        if settings.max_reviews < len(names):
            raise InputError(f"data.max_reviews={settings.max_reviews} is too few for {len(names)} classes")
        tables = {split: _subset(table, settings.max_reviews, settings.seed) for split, table in tables.items()}
    _warn_of_empty_reviews(tables)
    # A copy of IMDb has `neg` and `pos`, or 0 and 1 where it stored no names. Own files keep the names they have.
    shown = CLASS_NAMES if source != "files" and names in SPELLINGS else names
    return datasets.DatasetDict({split: _dataset(tables[split], names, shown) for split in SPLITS})


def load_test_file(settings: ReviewSettings, label_names: Sequence[str]) -> datasets.Dataset:
    """The reviews of `test_file` alone, with the labels a model was trained on. Raises InputError for any other."""
    assert settings.test_file is not None
    if settings.max_reviews is not None and settings.max_reviews < 1:
        raise InputError(f"data.max_reviews={settings.max_reviews}: at least 1, or null for all")
    table = _file(Path(settings.test_file).expanduser(), settings)
    present = set(pc.unique(table["label"]).to_pylist())
    names = list(label_names)
    if names == CLASS_NAMES:  # trained on a copy of IMDb, whose labels have three spellings
        names = next((spelling for spelling in SPELLINGS if present <= set(spelling)), names)
    if unknown := present - set(names):
        raise InputError(
            f"{settings.test_file!r} has labels that the checkpoint has not: "
            f"{', '.join(map(reprlib.repr, sorted(unknown)))}; it has {', '.join(map(reprlib.repr, names))}"
        )
    if settings.max_reviews is not None:
        table = _subset(table, settings.max_reviews, settings.seed)
    _warn_of_empty_reviews({"test": table})
    return _dataset(table, names, list(label_names))


def check_reviews(settings: ReviewSettings) -> None:
    """Raises one `InputError` with all that the settings alone have wrong."""
    problems = []
    if settings.source not in SOURCES:
        problems.append(f"data.source={settings.source!r} is none of {', '.join(SOURCES)}")
    if settings.source == "local" and settings.path is None:
        problems.append("data.source='local' needs data.path, a folder of reviews")
    if settings.source == "files":
        if settings.path is not None:
            problems.append(f"data.path={settings.path!r} and own files exclude each other: leave one out")
        for key in ("train_file", "test_file"):
            if getattr(settings, key) is None:
                problems.append(f"data.{key} is missing: name a file ({', '.join(READERS)})")
    if settings.text_column == settings.label_column:
        problems.append(f"data.text_column and data.label_column are both {settings.text_column!r}")
    if not 0 < settings.validation_fraction < 1:
        problems.append(f"data.validation_fraction={settings.validation_fraction} is not between 0 and 1")
    if settings.max_reviews is not None and settings.max_reviews < 1:
        problems.append(f"data.max_reviews={settings.max_reviews}: at least 1, or null for all")
    if settings.num_demo_reviews < 10:
        problems.append(f"data.num_demo_reviews={settings.num_demo_reviews} is under 10, too few to split")
    if settings.seed < 0:
        problems.append(f"data.seed={settings.seed} is negative")
    if problems:
        raise InputError("; ".join(problems))


# Sources: each gives tables by split, with `text` and `label` as strings.


def _hub(settings: ReviewSettings) -> dict[str, pa.Table]:
    """From the hub's cache with no request where it has the pinned revision, else asked for once.

    A commit never changes, so there is nothing to ask; a branch does. Not `load_dataset` by name: that asks always,
    and where there is no answer takes the revision that was cached last, whichever that is.
    """
    where = f"data.hub_name={settings.hub_name!r} at data.hub_revision={settings.hub_revision!r}"
    offline = datasets.config.HF_HUB_OFFLINE
    loaded = None
    if offline or COMMIT.fullmatch(settings.hub_revision):
        try:
            loaded = _hub_copy(settings, local_files_only=True)
        except Exception as error:  # those of datasets and huggingface_hub share no closer base
            logger.debug("%s is not in the hub's cache: %s", where, _one_line(error))
    if loaded is None:
        try:
            loaded = _hub_copy(settings, local_files_only=offline)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise InputError(f"{where} is not on the hub, or is private: {_one_line(error)}") from error
        except Exception as error:  # also of the HTTP client
            raise InputError(
                f"{where} could not be loaded and no copy is cached ({_one_line(error)}); with no network, give "
                "data.path a folder of reviews and model.pretrained a folder of weights, or run experiment=demo, which "
                "needs neither"
            ) from error
    for split in ("train", "test"):
        if split not in loaded:
            raise InputError(f"{where} has no split {split!r}, only {', '.join(map(repr, loaded))}")
    return {
        split: _reviews(loaded[split].with_format("arrow")[:], f"{where}, split {split!r}", settings)
        for split in SPLITS
        if split in loaded
    }


def _hub_copy(settings: ReviewSettings, *, local_files_only: bool) -> datasets.DatasetDict:
    """The data set as the hub's cache holds it, brought there first unless told not to."""
    folder = snapshot_download(
        settings.hub_name, repo_type="dataset", revision=settings.hub_revision, local_files_only=local_files_only
    )
    shards = Counter(match.groups() for file in Path(folder).rglob("*") if (match := SHARD.fullmatch(str(file))))
    for (name, total), count in shards.items():
        if count < int(total):  # another tool fetched a part, or a download was interrupted
            raise FileNotFoundError(f"{Path(name).name!r} has {count} of its {int(total)} files")
    loaded = datasets.load_dataset(folder)
    if local_files_only and not {"train", "test"} <= loaded.keys():
        raise FileNotFoundError("a part of the splits only")
    return loaded


def _local(settings: ReviewSettings) -> dict[str, pa.Table]:
    assert settings.path is not None
    folder, where = Path(settings.path).expanduser(), f"data.path={settings.path!r}"
    if folder.is_file() and folder.name.lower().endswith(ARCHIVE_ENDINGS):
        return _archive(folder)
    if folder.is_file():
        raise InputError(f"{where} is a file, not a folder: for own files use data=files data.train_file=…")
    if not folder.is_dir():
        raise InputError(f"{where} does not exist: give a folder of Parquet files, the aclImdb folder or its archive")
    for root in (folder, folder / "aclImdb"):
        if (root / "train" / "pos").is_dir():
            return {split: _text_files(root / split) for split in ("train", "test")}
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet")):
        if match := SPLIT_IN_FILE_NAME.search(file.name.lower()):
            files.setdefault(match[1], []).append(file)
    if not files:
        raise InputError(f"{where} holds no reviews: neither train*.parquet and test*.parquet nor train/pos/*.txt")
    for split in ("train", "test"):
        if split not in files:
            raise InputError(f"{where} has Parquet files but none with {split!r} in its name")
    return {
        split: pa.concat_tables(_file(file, settings) for file in files[split]) for split in SPLITS if split in files
    }


def _text_files(folder: Path) -> pa.Table:
    """The reviews of `folder`/neg and `folder`/pos."""
    return _tree_table(
        {name: {file.name: _utf8_text(file) for file in (folder / name).glob("*.txt")} for name in CLASS_FOLDERS},
        folder,
    )


def _tree_table(texts: Mapping[str, Mapping[str, str]], where: Path) -> pa.Table:
    """Texts by class and file name, as the hub's copy has them: negatives first, each class by number."""
    tables = []
    for name in CLASS_FOLDERS:
        if not texts[name]:
            raise InputError(f"data.path: {str(where / name)!r} holds no .txt reviews")
        files = sorted(texts[name], key=lambda file: (file.removesuffix(".txt").partition("_")[0].zfill(9), file))
        column = pa.array([texts[name][file] for file in files], pa.string())
        tables.append(pa.table({"text": column, "label": [name] * len(files)}))
    return pa.concat_tables(tables)


def _archive(file: Path) -> dict[str, pa.Table]:
    """The official archive as downloaded, read member by member: nothing of it is written to disk.

    Only regular files of the names expected are read, so that links, devices and paths that lead elsewhere mean
    nothing here.
    """
    texts: dict[str, dict[str, dict[str, str]]] = {
        split: {name: {} for name in CLASS_FOLDERS} for split in ("train", "test")
    }
    try:
        with gzip.open(file) as unpacked:
            content = _Limited(unpacked)
            # one block at a time: to tarfile a damaged header is the end, and here what stands behind it must show
            with tarfile.open(fileobj=content, mode="r|", bufsize=tarfile.BLOCKSIZE) as archive:  # type: ignore[call-overload]
                for split, name, review, text in _archived_reviews(archive, file):
                    if review in texts[split][name]:
                        raise InputError(f"{str(file)!r} holds {split}/{name}/{review} twice: fetch it again")
                    texts[split][name][review] = text
            while rest := content.read(2**20):  # to the end, where the checksum is
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("a damaged header")
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"data.path={str(file)!r} is cut short or damaged, or no archive ({_one_line(error)}): fetch it again"
        ) from error
    return {split: _tree_table(found, file / "aclImdb" / split) for split, found in texts.items()}


def _archived_reviews(archive: tarfile.TarFile, file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Split, class, file name and text of each review, in the order of the archive."""
    for member in archive:
        match = ARCHIVED_REVIEW.fullmatch(member.name)
        if match is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            continue
        where = f"{str(file)!r}: {member.name}"
        if member.size > MAX_ARCHIVED_REVIEW:
            raise InputError(f"{where} has {member.size} bytes, which is no review: is this the official archive?")
        content = archive.extractfile(member)
        assert content is not None  # of a regular file
        yield match[1], match[2], match[3], _decoded(content.read(), where)


class _Limited:
    """What an archive unpacks to, up to a limit: a few bytes can stand for terabytes."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file, self._left = file, MAX_ARCHIVE

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_ARCHIVE} bytes")
        return content


def _own_files(settings: ReviewSettings) -> dict[str, pa.Table]:
    files = {split: getattr(settings, f"{split}_file") for split in SPLITS}
    return {split: _file(Path(file).expanduser(), settings) for split, file in files.items() if file is not None}


def _demo(settings: ReviewSettings) -> dict[str, pa.Table]:
    reviews = generate(num_reviews=settings.num_demo_reviews, seed=settings.seed)
    columns = {
        "text": [review.text for review in reviews],
        "label": [str(review.label) for review in reviews],
        "spans": [review.spans for review in reviews],
    }
    rest, test = _split(pa.table(columns), 0.2, settings.seed)
    train, validation = _split(rest, 0.25, settings.seed)
    return {"train": train, "validation": validation, "test": test}


# Files: strict readers that name the file, and the line where there is one.


def _file(file: Path, settings: ReviewSettings) -> pa.Table:
    suffix = file.suffix.lower()
    if suffix not in READERS:
        raise InputError(f"{str(file)!r} has none of the endings {', '.join(READERS)}")
    return _reviews(READERS[suffix](file, settings), repr(str(file)), settings)


def _parquet(file: Path, settings: ReviewSettings) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            _check_columns(parquet.schema_arrow.names, repr(str(file)), settings)
            return parquet.read(columns=[settings.text_column, settings.label_column])
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{str(file)!r} cannot be read as Parquet: {_one_line(error)}") from error


def _json_lines(file: Path, settings: ReviewSettings) -> pa.Table:
    columns: dict[str, None] = {}
    texts, labels = [], []
    # Not splitlines(), which also cuts at U+2028 and others that may stand inside a JSON string.
    for number, line in enumerate(_utf8_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{str(file)!r}, line {number}, is not JSON: {_one_line(error)}") from error
        if not isinstance(row, dict):
            raise InputError(f"{str(file)!r}, line {number}, is not a JSON object: write one review a line")
        columns.update(dict.fromkeys(row))
        texts.append(row.get(settings.text_column))
        labels.append(row.get(settings.label_column))
        for value in (texts[-1], labels[-1]):
            if isinstance(value, str) and HALF_CHARACTER.search(value):
                raise InputError(
                    f"{str(file)!r}, line {number}, holds half a character, \\ud800 to \\udfff: write both"
                )
    _check_columns(columns, repr(str(file)), settings)
    try:
        return pa.table({settings.text_column: texts, settings.label_column: labels})
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{str(file)!r} mixes kinds of value in a column: {_one_line(error)}") from error


def _delimited(file: Path, settings: ReviewSettings) -> pa.Table:
    rows = _delimited_rows(file)
    number, first = next(rows, (0, []))
    columns = first
    if not settings.header:
        columns = [str(position) for position in range(len(first))]
        rows = itertools.chain([(number, first)], rows)
    _check_columns(columns, f"{str(file)!r} with data.header={str(settings.header).lower()}", settings)
    text_position, label_position = columns.index(settings.text_column), columns.index(settings.label_column)
    texts, labels = [], []
    for number, row in rows:
        if len(row) != len(columns):
            raise InputError(f"{str(file)!r}, line {number}, has {len(row)} columns where the first has {len(columns)}")
        texts.append(row[text_position])
        labels.append(row[label_position])
    return pa.table({settings.text_column: texts, settings.label_column: labels})


def _delimited_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that is not blank."""
    text = _utf8_text(file)
    if file.suffix.lower() == ".tsv":  # no quoting: quotes in a TSV of reviews are the reviewer's
        for number, line in enumerate(text.split("\n"), start=1):
            if line := line.removesuffix("\r"):
                yield number, line.split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{str(file)!r}, line {reader.line_num}, is not CSV: {_one_line(error)}") from error


def _utf8_text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    return _decoded(content, repr(str(file)))


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{where}, line {number}, is not UTF-8: save the file as UTF-8") from error


READERS = {".tsv": _delimited, ".csv": _delimited, ".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}


def _check_columns(columns: Iterable[str], where: str, settings: ReviewSettings) -> None:
    columns = list(columns)
    if not columns:
        raise InputError(f"{where} is empty: it holds no reviews")
    for key in ("text_column", "label_column"):
        name = getattr(settings, key)
        if name not in columns:
            nearest = "".join(f"did you mean {near!r}? " for near in difflib.get_close_matches(name, columns, n=1))
            there = ", ".join(map(reprlib.repr, columns))
            raise InputError(f"{where} has no column data.{key}={name!r}: {nearest}it has {there}")
        if columns.count(name) > 1:
            raise InputError(f"{where} has more than one column data.{key}={name!r}: rename all but one")


def _reviews(table: pa.Table, where: str, settings: ReviewSettings) -> pa.Table:
    """The text and label columns of `table`, checked, as strings."""
    _check_columns(table.column_names, where, settings)
    if not table.num_rows:
        raise InputError(f"{where} is empty: it holds no reviews")
    table = table.select([settings.text_column, settings.label_column])
    features = datasets.Features.from_arrow_schema(table.schema)  # class names, where `datasets` wrote the table
    if isinstance(features[settings.label_column], datasets.ClassLabel):
        named = _class_labels(table[settings.label_column].to_pylist(), features[settings.label_column].names)
        table = table.set_column(1, settings.label_column, pa.array(named, pa.string()))
    texts = _strings(table, where, "text_column", settings.text_column)
    labels = _strings(table, where, "label_column", settings.label_column, pa.types.is_integer, pa.types.is_boolean)
    if num_blank := pc.sum(_is_blank(labels)).as_py():
        raise InputError(
            f"{num_blank} of {table.num_rows} rows of {where} have no label in "
            f"data.label_column={settings.label_column!r}: label or remove them"
        )
    return pa.table({"text": texts, "label": labels})


def _class_labels(numbers: list[int | None], names: list[str]) -> list[str | None]:
    """Class numbers as names; one without a name, such as the hub's -1 for a label kept secret, stays a number."""
    named = dict(enumerate(names))
    return [None if number is None else named.get(number, str(number)) for number in numbers]


def _strings(
    table: pa.Table, where: str, key: str, name: str, *also_allowed: Callable[[pa.DataType], bool]
) -> pa.ChunkedArray:
    """The column `name` as strings, a missing one as ""."""
    column = table[name]
    if pa.types.is_dictionary(column.type):  # what pandas writes for a categorical
        column = column.cast(column.type.value_type)
    if not any(is_kind(column.type) for is_kind in (*STRING_KINDS, *also_allowed)):
        wanted = "strings or integers" if also_allowed else "text"
        raise InputError(f"data.{key}={name!r} holds {column.type}, not {wanted}, in {where}")
    try:
        column.validate(full=True)  # Parquet readers do not check that strings are UTF-8
    except pa.ArrowInvalid as error:
        raise InputError(f"data.{key}={name!r} is not UTF-8 in {where}") from error
    return column.cast(pa.string()).fill_null("")


# Splits: tables with string labels in, tables in the same order of rows out.


def _class_names(tables: dict[str, pa.Table]) -> list[str]:
    names: list[str] = pc.unique(tables["train"]["label"]).to_pylist()
    if len(names) == 1:
        raise InputError(f"the train split has one class only, {names[0]!r}: is data.label_column the right one?")
    for split in ("validation", "test"):
        if split in tables and (unknown := set(pc.unique(tables[split]["label"]).to_pylist()) - set(names)):
            raise InputError(
                f"the {split} split has labels that train has not, {', '.join(map(reprlib.repr, sorted(unknown)))}: "
                f"remove or rename them, train has {', '.join(map(reprlib.repr, sorted(names)))}"
            )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _split(table: pa.Table, fraction: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """What stays and the held-out `fraction`; equal texts go to the same side."""
    first_seen: dict[str, int] = {}
    groups = np.array([first_seen.setdefault(text, len(first_seen)) for text in table["text"].to_pylist()])
    held_out = _held_out(table, groups, round(fraction * table.num_rows), seed)
    if not held_out.any():
        raise InputError(
            f"{table.num_rows} train reviews are too few to hold out data.validation_fraction={fraction} of them: "
            "add reviews, or give a validation split"
        )
    return table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))


def _subset(table: pa.Table, num_rows: int, seed: int) -> pa.Table:
    if table.num_rows <= num_rows:
        return table
    return table.filter(pa.array(~_held_out(table, np.arange(table.num_rows), table.num_rows - num_rows, seed)))


def _held_out(table: pa.Table, groups: NDArray[np.int64], num_rows: int, seed: int) -> NDArray[np.bool_]:
    """Which rows a seeded draw of `num_rows` takes, the same share of each class.

    The rows of a group go together, and every class keeps at least one group, so that none disappears.
    """
    _, labels = np.unique(np.array(table["label"].to_pylist()), return_inverse=True)
    _, first_rows, sizes = np.unique(groups, return_index=True, return_counts=True)
    group_labels = labels[first_rows]
    spare = np.bincount(group_labels, weights=sizes).astype(int) - 1
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(sizes), dtype=bool)
    for label, wanted in enumerate(_shares(spare, min(num_rows, spare.sum()))):
        for group in generator.permutation(np.flatnonzero(group_labels == label))[1:]:
            if sizes[group] <= wanted:
                taken[group] = True
                wanted -= sizes[group]
    return taken[groups]


def _shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """`total` divided in proportion to `counts`: rounded down, the rest to the largest remainders."""
    shares, remainders = np.divmod(counts * total, max(counts.sum(), 1))
    shares[np.argsort(-remainders, kind="stable")[: total - shares.sum()]] += 1
    return shares


def _is_blank(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.equal(pc.utf8_trim_whitespace(strings), "")


def _warn_of_empty_reviews(tables: dict[str, pa.Table]) -> None:
    counts = {split: pc.sum(_is_blank(table["text"])).as_py() for split, table in tables.items()}
    if any(counts.values()):
        by_split = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
        logger.warning("kept %d empty or white-space reviews: %s", sum(counts.values()), by_split)


def _dataset(table: pa.Table, names: list[str], shown: list[str]) -> datasets.Dataset:
    labels = pc.index_in(table["label"], value_set=pa.array(names)).cast(pa.int64())
    table = table.set_column(table.column_names.index("label"), "label", labels)
    features = datasets.Features.from_arrow_schema(table.schema)
    features["label"] = datasets.ClassLabel(names=shown)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}"

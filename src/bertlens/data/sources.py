"""Where reviews come from: one function per source, each returns tables by split with `text` and `label` as strings.

The tables are read into memory, not through the file loaders of `datasets`: those guess types (a label "01" becomes 1)
and keep a cache that checks a file's time, not its content. Reading takes about a second for IMDb's 66 MB; the results
that are worth keeping on disk are the tokenizer's.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa

from bertlens.data.demo import generate
from bertlens.data.readers import read_file, read_text, select_reviews
from bertlens.data.settings import DataSettings
from bertlens.data.splits import SPLITS, hold_out
from bertlens.errors import InputError
from bertlens.system.escape import one_line_of
from bertlens.system.hub import fetch

CLASS_FOLDERS = ("neg", "pos")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.\w+")
SPLIT_IN_FILE_NAME = re.compile(r"(?<![a-z])(train|validation|test)(?![a-z])")


def _read_hub(settings: DataSettings) -> dict[str, pa.Table]:
    """Read a data set of the hub; if its revision is a commit and in the hub's cache, no request is made.

    A commit never changes, but a branch does. This is not `load_dataset` by name: without a network, that would take
    any revision that is cached.
    """
    where = f"data.hub_name={settings.hub_name!r} at data.hub_revision={settings.hub_revision!r}"
    loaded = None
    if COMMIT.fullmatch(settings.hub_revision):
        with contextlib.suppress(Exception):  # those of `datasets` share no closer base
            loaded = _load_from_hub(settings, offline_only=True)
    try:
        loaded = loaded or _load_from_hub(settings, offline_only=False)
    except Exception as error:
        raise InputError(
            f"{where} could not be loaded ({one_line_of(str(error))[:200]}); without a network, give data.path a "
            "folder of reviews and model.pretrained a folder of weights, or run experiment=demo, which needs neither"
        ) from error
    return {
        split: select_reviews(loaded[split].with_format("arrow")[:], f"{where}, split {split!r}", settings)
        for split in SPLITS
        if split in loaded
    }


def _load_from_hub(settings: DataSettings, *, offline_only: bool) -> datasets.DatasetDict:
    """Load a snapshot of the hub's cache. Raises an exception if it has only some of the files or splits."""
    folder = fetch(settings.hub_name, repo_type="dataset", revision=settings.hub_revision, offline_only=offline_only)
    shards = Counter(match.groups() for file in folder.rglob("*") if (match := SHARD.fullmatch(str(file))))
    for (name, total), count in shards.items():
        if count < int(total):  # another tool fetched only some, or a download was interrupted
            raise FileNotFoundError(f"{Path(name).name!r} has {count} of its {int(total)} files")
    loaded = datasets.load_dataset(str(folder))
    for split in ("train", "test"):
        if split not in loaded:
            raise FileNotFoundError(f"it has no split {split!r}, only {', '.join(map(repr, loaded))}")
    return loaded


def _read_local(settings: DataSettings) -> dict[str, pa.Table]:
    """Read the Parquet files or the aclImdb tree in the folder data.path."""
    assert settings.path is not None
    folder, where = Path(settings.path).expanduser(), f"data.path={settings.path!r}"
    if folder.is_file():
        raise InputError(f"{where} is a file, not a folder: for your own files use data=files data.train_file=…")
    if not folder.is_dir():
        raise InputError(f"{where} does not exist: give a folder of Parquet files, or the unpacked aclImdb folder")
    for root in (folder, folder / "aclImdb"):
        if (root / "train" / "pos").is_dir():
            return {split: _read_class_folders(root / split) for split in ("train", "test")}
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
        split: pa.concat_tables(read_file(file, settings) for file in files[split])
        for split in SPLITS
        if split in files
    }


def _read_class_folders(folder: Path) -> pa.Table:
    """Read `folder`/neg and `folder`/pos in the order of the hub's copy: negatives first, each class by number.

    The column `film` holds the address of a review's film, or what no other review has.
    """
    tables = []
    for name in CLASS_FOLDERS:
        files = list((folder / name).glob("*.txt"))
        if not files:
            raise InputError(f"data.path: {str(folder / name)!r} holds no .txt reviews")
        files.sort(key=lambda file: (file.stem.partition("_")[0].zfill(9), file.name))
        columns = {"text": pa.array([read_text(file) for file in files], pa.string()), "label": [name] * len(files)}
        urls = folder / f"urls_{name}.txt"  # line n, counted from 0, is the film of the review with number n
        films = {str(number): url for number, url in enumerate(read_text(urls).split("\n"))} if urls.is_file() else {}
        columns["film"] = [films.get(file.stem.partition("_")[0]) or f"{name}/{file.name}" for file in files]
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _read_own_files(settings: DataSettings) -> dict[str, pa.Table]:
    files = {split: getattr(settings, f"{split}_file") for split in SPLITS}
    return {split: read_file(Path(file).expanduser(), settings) for split, file in files.items() if file is not None}


def _write_demo(settings: DataSettings) -> dict[str, pa.Table]:
    reviews = generate(num_reviews=settings.num_demo_reviews, seed=settings.seed)
    columns = {
        "text": [review.text for review in reviews],
        "label": [str(review.label) for review in reviews],
        "spans": [review.spans for review in reviews],
    }
    rest, test = hold_out(pa.table(columns), 0.2, settings.seed, split="test")
    train, validation = hold_out(rest, 0.25, settings.seed, split="validation")
    return {"train": train, "validation": validation, "test": test}


SOURCES: dict[str, Callable[[DataSettings], dict[str, pa.Table]]] = {
    "hub": _read_hub,
    "local": _read_local,
    "files": _read_own_files,
    "demo": _write_demo,
}

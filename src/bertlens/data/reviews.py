"""Reviews by split: read from a source, classes numbered, validation held out, reduced to `max_reviews`.

Classes are numbered once, after all splits are read, so that train and test agree however a file stores its labels.
"""

import logging
import reprlib
import secrets
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from bertlens.data.readers import is_blank, read_file
from bertlens.data.settings import DataSettings
from bertlens.data.sources import CLASS_FOLDERS, SOURCES
from bertlens.data.splits import SPLITS, draw_subset, find_class_names, hold_out, number_folds
from bertlens.errors import InputError

log = logging.getLogger(__name__)

CLASS_NAMES = ["negative", "positive"]
SPELLINGS = [[*CLASS_FOLDERS], ["0", "1"]]  # what copies of IMDb call these classes


def load_reviews(settings: DataSettings) -> datasets.DatasetDict:
    """Return the splits train, validation and test with `text` and `label`.

    The demo has `spans` too: pairs of character offsets. A test or validation split that the source lacks is held out
    of train: `test_fraction` or `validation_fraction` of each class, drawn with `seed`, and never a text that train
    keeps. With `test_fraction` 0 there is no test split. With `fold`, the validation split is that fold of train, with
    each review's `row` in train. Raises `InputError` for reviews that cannot be used.
    """
    source = "local" if settings.path is not None else settings.source
    tables = SOURCES[source](settings)
    if pc.all(is_blank(tables["train"]["text"])).as_py():
        raise InputError(f"every train review is empty: is data.text_column={settings.text_column!r} the right one?")
    names = find_class_names(tables)
    for split, fraction in (("test", settings.test_fraction), ("validation", settings.validation_fraction)):
        if split not in tables and fraction and (split == "test" or settings.fold is None):
            tables["train"], tables[split] = hold_out(tables["train"], fraction, settings.seed, split=split)
    for key in ("max_reviews", "train_reviews"):
        if (getattr(settings, key) or len(names)) < len(names):
            raise InputError(f"data.{key}={getattr(settings, key)} is too few for {len(names)} classes")
    if settings.max_reviews is not None:
        tables = {split: draw_subset(table, settings.max_reviews, settings.seed) for split, table in tables.items()}
    if settings.folds is not None and settings.fold is not None:
        repeat, fold = divmod(settings.fold - 1, settings.folds)
        train = tables["train"].append_column("row", pa.array(range(tables["train"].num_rows), pa.int64()))
        held_out = pa.array(number_folds(train, settings.folds, seed=settings.seed, repeat=repeat) == fold + 1)
        tables |= {"train": train.filter(pc.invert(held_out)), "validation": train.filter(held_out)}
    if settings.train_reviews is not None:
        tables["train"] = draw_subset(tables["train"], settings.train_reviews, settings.seed)
    _warn_of_empty_reviews(tables)
    for split, table in tables.items():
        if missing := set(names) - set(pc.unique(table["label"]).to_pylist()):
            log.warning("no %s review has the label %s", split, ", ".join(map(reprlib.repr, sorted(missing))))
    shown = CLASS_NAMES if source != "files" and names in SPELLINGS else names  # own files keep their names
    return datasets.DatasetDict(
        {split: _to_dataset(tables[split], names, shown) for split in SPLITS if split in tables}
    )


def load_test_file(settings: DataSettings, label_names: Sequence[str]) -> datasets.Dataset:
    """Return the reviews of `test_file` alone. Raises `InputError` for a label that is not in `label_names`."""
    assert settings.test_file is not None
    table = read_file(Path(settings.test_file).expanduser(), settings)
    present = set(pc.unique(table["label"]).to_pylist())
    names = list(label_names)
    if names == CLASS_NAMES:  # the model was trained on a copy of IMDb, whose labels have three spellings
        names = next((spelling for spelling in SPELLINGS if present <= set(spelling)), names)
    if unknown := present - set(names):
        raise InputError(
            f"{settings.test_file!r} has labels that the checkpoint does not have: "
            f"{', '.join(map(reprlib.repr, sorted(unknown)))}; it has {', '.join(map(reprlib.repr, names))}"
        )
    if settings.max_reviews is not None:
        table = draw_subset(table, settings.max_reviews, settings.seed)
    _warn_of_empty_reviews({"test": table})
    return _to_dataset(table, names, list(label_names))


def _warn_of_empty_reviews(tables: dict[str, pa.Table]) -> None:
    counts = {split: pc.sum(is_blank(table["text"])).as_py() for split, table in tables.items()}
    if any(counts.values()):
        by_split = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
        log.warning("kept %d reviews that are empty or white space: %s", sum(counts.values()), by_split)


def _to_dataset(table: pa.Table, names: list[str], shown: list[str]) -> datasets.Dataset:
    """Return the table with its labels numbered in the order of `names` and called `shown`."""
    table = table.drop_columns([name for name in table.column_names if name == "film"])
    labels = pc.index_in(table["label"], value_set=pa.array(names)).cast(pa.int64())
    table = table.set_column(table.column_names.index("label"), "label", labels)
    features = datasets.Features.from_arrow_schema(table.schema)
    features["label"] = datasets.ClassLabel(names=shown)
    # without a fingerprint it would hash all texts, for caches that are not used here
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features), fingerprint=secrets.token_hex(8))

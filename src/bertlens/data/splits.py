"""Class names, the validation split and smaller subsets. Tables have string labels; the order of rows is kept."""

import re
import reprlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bertlens.errors import InputError

SPLITS = ("train", "validation", "test")


def find_class_names(tables: dict[str, pa.Table]) -> list[str]:
    """Return the labels of train in order, by value if all are integers; the other splits may have no others."""
    names: list[str] = pc.unique(tables["train"]["label"]).to_pylist()
    if len(names) == 1:
        raise InputError(f"the train split has one class only, {names[0]!r}: is data.label_column the right one?")
    for split in ("validation", "test"):
        if split in tables and (unknown := set(pc.unique(tables[split]["label"]).to_pylist()) - set(names)):
            raise InputError(
                f"the {split} split has labels that train does not have, "
                f"{', '.join(map(reprlib.repr, sorted(unknown)))}: remove or rename them, train has "
                f"{', '.join(map(reprlib.repr, sorted(names)))}"
            )
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def hold_out(table: pa.Table, fraction: float, seed: int, *, split: str) -> tuple[pa.Table, pa.Table]:
    """Return the rows that stay and the `fraction` held out for a split; equal texts go to the same side."""
    held_out = _draw(table, _group(table["text"]), round(fraction * table.num_rows), seed)
    if not held_out.any():
        raise InputError(
            f"{table.num_rows} train reviews are too few to hold out data.{split}_fraction={fraction} of them: "
            f"add reviews, or give a {split} split"
        )
    return table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))


def number_folds(table: pa.Table, num_folds: int, *, seed: int, repeat: int) -> NDArray[np.int64]:
    """Return each row's fold, counted from 1, with about the same share of each class.

    Equal texts, and the reviews of one film where the column `film` tells it, are in one fold. Each `repeat` divides
    the rows anew. Raise `InputError` if a class has fewer reviews than there are folds.
    """
    for label, count in zip(*(each.to_pylist() for each in table["label"].value_counts().flatten()), strict=True):
        if count < num_folds:
            raise InputError(f"data.folds={num_folds}: more folds than the {count} reviews of the class {label!r}")
    groups = _group(table["text"])
    if "film" in table.column_names:  # texts and films are the nodes of a graph, reviews its edges
        films = groups.max() + 1 + _group(table["film"])
        nodes = films.max() + 1
        graph = coo_array((np.ones(table.num_rows), (groups, films)), shape=(nodes, nodes))
        groups = connected_components(graph, directed=False)[1][groups]
    folds = np.ones(table.num_rows, dtype=np.int64)  # the first one has what no other gets
    for fold in range(2, num_folds + 1):
        rest = np.flatnonzero(folds == 1)
        share = round(len(rest) / (num_folds - fold + 2))
        drawn = _draw(table.take(rest), groups[rest], share, [seed, repeat])
        folds[rest[drawn]] = fold
    return folds


def _group(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a number for each row: the same for the same value."""
    return np.asarray(values.combine_chunks().dictionary_encode().indices)


def draw_subset(table: pa.Table, num_rows: int, seed: int) -> pa.Table:
    """Return `num_rows` rows of the table, or all if it has no more, with the same share of each class."""
    if table.num_rows <= num_rows:
        return table
    return table.filter(pa.array(~_draw(table, np.arange(table.num_rows), table.num_rows - num_rows, seed)))


def _draw(table: pa.Table, groups: NDArray[np.int64], num_rows: int, seed: int | list[int]) -> NDArray[np.bool_]:
    """Draw about `num_rows` rows, the same share of each class; return for each row whether it was drawn.

    The rows of a group go together, and every class keeps at least one group, so that no class disappears.
    """
    _, labels = np.unique(np.array(table["label"].to_pylist()), return_inverse=True)
    _, first_rows, groups, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    group_labels = labels[first_rows]
    spare = np.bincount(group_labels, weights=sizes).astype(int) - 1
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(sizes), dtype=bool)
    for label, wanted in enumerate(_share_out(spare, min(num_rows, spare.sum()))):
        for group in generator.permutation(np.flatnonzero(group_labels == label))[1:]:
            if sizes[group] <= wanted:
                drawn[group] = True
                wanted -= sizes[group]
    return drawn[groups]


def _share_out(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide `total` in proportion to `counts`: rounded down, the rest goes to the largest remainders."""
    shares, remainders = np.divmod(counts * total, max(counts.sum(), 1))
    shares[np.argsort(-remainders, kind="stable")[: total - shares.sum()]] += 1
    return shares

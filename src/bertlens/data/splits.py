"""Class names, the validation split and smaller subsets. Tables have string labels; the order of rows is kept."""

import re
import reprlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
    first_seen: dict[str, int] = {}
    groups = np.array([first_seen.setdefault(text, len(first_seen)) for text in table["text"].to_pylist()])
    held_out = _draw(table, groups, round(fraction * table.num_rows), seed)
    if not held_out.any():
        raise InputError(
            f"{table.num_rows} train reviews are too few to hold out data.{split}_fraction={fraction} of them: "
            f"add reviews, or give a {split} split"
        )
    return table.filter(pa.array(~held_out)), table.filter(pa.array(held_out))


def draw_subset(table: pa.Table, num_rows: int, seed: int) -> pa.Table:
    """Return `num_rows` rows of the table, or all if it has no more, with the same share of each class."""
    if table.num_rows <= num_rows:
        return table
    return table.filter(pa.array(~_draw(table, np.arange(table.num_rows), table.num_rows - num_rows, seed)))


def _draw(table: pa.Table, groups: NDArray[np.int64], num_rows: int, seed: int) -> NDArray[np.bool_]:
    """Draw about `num_rows` rows, the same share of each class; return for each row whether it was drawn.

    The rows of a group go together, and every class keeps at least one group, so that no class disappears.
    """
    _, labels = np.unique(np.array(table["label"].to_pylist()), return_inverse=True)
    _, first_rows, sizes = np.unique(groups, return_index=True, return_counts=True)
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

"""What visualize.py is told: which reviews to explain, and how much of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bertlens.system.settings import setting


@dataclass(kw_only=True)
class SelectionSettings:
    reviews: str = setting(
        "sample",
        "which test reviews: sample (every class, right and wrong), first, wrong, right, uncertain or random",
        choices=("sample", "first", "wrong", "right", "uncertain", "random"),
    )
    indices: list[int] | None = setting(None, "these test reviews instead, by their place: 'indices=[0,3]'")
    text: Any = setting(None, "your own text instead, or a list of them")
    file: str | None = setting(None, "your own file instead, one review per line")
    count: int = setting(64, "how many reviews", at_least=1)
    seed: int = setting(1234, "decides which reviews are drawn", at_least=0)

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        given = [name for name in ("indices", "text", "file") if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"{' and '.join(prefix + name for name in given)}: give one of them"


# names of functions in methods.py
DEFAULT_METHODS = ("aumann_shapley", "attention")


@dataclass(kw_only=True)
class ExplainSettings:
    methods: list[str] = setting(list(DEFAULT_METHODS), "which methods (the README lists them); the first one leads")
    contrast: str | None = setting(None, "the label that the prediction is set against; null: the runner-up")


@dataclass(kw_only=True)
class ReportSettings:
    layers: str = setting(
        "last", "last: attention of the last layer; all: of every layer, and rollout", choices=("last", "all")
    )
    curves: int | str = setting(16, "how many reviews can be checked by hand on the page: a number, or all", at_least=0)

    language: str = setting("en", "of the captions in the classic view", choices=("en", "ja"))

    def conflicts(self, prefix: str = "") -> Iterator[str]:
        if isinstance(self.curves, str) and self.curves != "all":
            yield f"{prefix}curves={self.curves}: give a number, or all"


@dataclass(kw_only=True)
class FaithfulnessSettings:
    reviews: int | None = setting(
        None, "by how many test reviews to measure methods; null: none; 200 take some minutes", at_least=2
    )
    methods: list[str] = setting(
        ["aumann_shapley", "attention", "mask_gradient"], "which methods; the first is compared with the others"
    )

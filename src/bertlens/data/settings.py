"""The `data` section: which reviews are read, how a text becomes word pieces, and how reviews become batches."""

from collections.abc import Iterator
from dataclasses import dataclass

from bertlens.system.settings import setting

ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet")  # of your own files of reviews


@dataclass(kw_only=True)
class DataSettings:
    """Part of every checkpoint: plain types only."""

    source: str = setting(
        "hub",
        "where reviews come from; data.path and data.train_file choose local and files by themselves",
        choices=("hub", "local", "files", "demo"),
    )
    path: str | None = setting(None, "local reviews: a folder of Parquet files, or the unpacked aclImdb folder")
    hub_name: str = setting("stanfordnlp/imdb", "the data set's name on the hub")
    hub_revision: str = setting("e6281661ce1c48d982bc483cf8a173c1bbeb5d31", "the data set's commit on the hub")
    train_file: str | None = setting(None, f"your own reviews: {', '.join(ENDINGS)}")
    validation_file: str | None = setting(None, "your own validation reviews; null: a part of the training reviews")
    test_file: str | None = setting(None, "your own test reviews; null: a part of the training reviews")
    text_column: str = setting("text", "the column with the text")
    label_column: str = setting("label", "the column with the label")
    header: bool = setting(True, "whether the first line of a .tsv or .csv names the columns; if not: 0, 1, ...")
    max_reviews: int | None = setting(None, "reviews per split at most, each class in its share; null: all", at_least=1)
    train_reviews: int | None = setting(
        None, "training reviews at most, each class in its share; null: all", at_least=1, affects="steps"
    )
    folds: int | None = setting(
        None, "divide train into so many folds; predict each by a fit on the others", at_least=2, affects="steps"
    )
    fold_repeats: int = setting(1, "how often train is divided into data.folds anew", at_least=1, affects="steps")
    fold: int | None = setting(
        None, "the only fold to predict, 1 to data.folds * data.fold_repeats; null: all", at_least=1, affects="steps"
    )
    validation_fraction: float = setting(
        0.2,
        "share of train kept for validation if the source has none; 0: none, and the last epoch is kept",
        at_least=0,
        below=1,
        affects="steps",
    )
    test_fraction: float = setting(
        0.2,
        "share of your own training reviews kept for the test if there is no data.test_file; test=false keeps none",
        at_least=0,
        below=1,
        affects="steps",
    )
    seed: int = setting(
        1234, "decides the validation split, max_reviews and the demo's reviews", at_least=0, affects="steps"
    )
    num_demo_reviews: int = setting(3000, "how many reviews the demo writes", at_least=10)

    cleaning: str = setting(
        "notebook",
        "notebook: drop <br />, replace punctuation but . and , by spaces; none: as BERT does",
        choices=("notebook", "none"),
        affects="steps",
    )
    lowercase: bool | None = setting(None, "lower-case the text; null: as the published model says", affects="steps")
    truncation: str = setting(
        "head", "which part of a long review is kept", choices=("head", "tail", "head_tail"), affects="steps"
    )
    # [CLS], one word piece and [SEP]
    max_length: int = setting(
        256, "word pieces per review at most, [CLS] and [SEP] included", at_least=3, affects="steps"
    )

    batch_size: int = setting(32, "reviews per training step and process", at_least=1, affects="steps")
    tokens_per_batch: int = setting(
        8192, "word pieces per batch and core where no gradient is needed: validation, test, features", at_least=1
    )
    padding: str = setting(
        "longest",
        "longest: pad a batch to its longest review; max_length: always to data.max_length",
        choices=("longest", "max_length"),
        affects="steps",
    )

    @property
    def pad_to(self) -> int | None:
        """Word pieces to which every review is padded; None: to the longest of its batch."""
        return self.max_length if self.padding == "max_length" else None

    @property
    def has_validation_reviews(self) -> bool:
        is_drawn = self.validation_fraction > 0 or self.fold is not None
        return self.source == "demo" or self.validation_file is not None or is_drawn

    @property
    def has_test_reviews(self) -> bool:
        return self.source != "files" or self.test_file is not None or self.test_fraction > 0

    def conflicts(self, prefix: str = "data.") -> Iterator[str]:
        files = {key: getattr(self, key) for key in ("train_file", "validation_file", "test_file")}
        named = [f"{prefix}{key}" for key, value in files.items() if value is not None]
        if self.source == "local" and self.path is None:
            yield f"{prefix}source=local: needs {prefix}path, a folder of reviews"
        if self.source == "files":
            if self.path is not None:
                yield f"{prefix}path={self.path}: excludes your own files ({prefix}source=files); leave one out"
            if self.train_file is None:
                yield f"{prefix}train_file is missing: name a file ({', '.join(ENDINGS)})"
        elif named:
            yield f"{', '.join(named)}: not read with {prefix}source={self.source}; set data=files or leave it out"
        if self.folds is None and self.fold is not None:
            yield f"{prefix}fold={self.fold}: needs {prefix}folds, the number of folds"
        if (self.folds or 0) > 1 and self.fold is None:
            yield f"{prefix}folds={self.folds}: type it on the command line, which runs all folds, or name {prefix}fold"
        if self.folds is not None and (self.fold or 1) > (most := self.folds * self.fold_repeats):
            yield f"{prefix}fold={self.fold}: there are {most} ({prefix}folds * {prefix}fold_repeats)"
        if self.text_column == self.label_column:
            yield f"{prefix}text_column and {prefix}label_column are both {self.text_column!r}"

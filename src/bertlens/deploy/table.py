"""New texts, any number, to predictions: a file of rows in, the same rows with their predictions out.

Rows are read, predicted and written some at a time, so memory does not grow with the file.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from bertlens.data.readers import find_columns
from bertlens.data.rows import Row, in_chunks, open_writer, read_rows
from bertlens.deploy.predict import LoadedClassifier
from bertlens.deploy.settings import FORMATS, STANDARD, PredictConfig
from bertlens.errors import InputError
from bertlens.explanations.explainer import Explainer, ReviewToExplain
from bertlens.explanations.settings import DEFAULT_METHODS
from bertlens.explanations.words import top_words
from bertlens.system.escape import csv_text, one_line_of
from bertlens.system.files import atomic_write
from bertlens.system.stopping import Stopped
from bertlens.system.wording import PROBABILITY, count_of, duration

ROWS_AT_A_TIME = 1024  # enough that texts of similar length stand together; a stop loses the work on so many
NUM_WORDS = 5
SECONDS_BETWEEN_LINES = 60  # of progress, where there is no terminal


def predict_file(config: PredictConfig, loaded: LoadedClassifier) -> None:
    """Write the rows of `config.file` with their predictions to `config.output`.

    Raises `InputError` for what cannot be read or written, and `Stopped` after a stop, when the rows that are done are
    in the output.
    """
    output = Path(config.output).expanduser()
    if config.output != STANDARD and output.exists() and not (config.overwrite or config.resume):
        another = "give another name, go on with it (resume=true), or replace it (overwrite=true)"
        raise InputError(f"output={config.output}: exists; {another}")
    with tempfile.NamedTemporaryFile(suffix=f".{config.format}") as copy:
        if config.file == STANDARD:  # which can be read only once
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
        _predict(config, Table(config, loaded, copy.name if config.file == STANDARD else config.file), output)


def _predict(config: PredictConfig, table: "Table", output: Path) -> None:
    opened: AbstractContextManager[IO[bytes]]
    opened = nullcontext(sys.stdout.buffer) if config.output == STANDARD else atomic_write(output)
    with opened as stream, open_writer(stream, table.output_format, table.schema) as write:
        for rows in in_chunks(table.take_done(output) if config.resume and output.exists() else [], ROWS_AT_A_TIME):
            write(rows)
        progress, stop = Progress(table.num_rows, done=table.num_done), None
        try:
            for rows in in_chunks(table.rows, ROWS_AT_A_TIME):
                write(table.predict(rows, progress.advance))
                table.num_done += len(rows)
        except Stopped as error:
            if not table.num_done:
                raise
            stop = error
    empty = f", {count_of(table.num_empty, 'empty text')} without a prediction" * bool(table.num_empty)
    _say(f"{config.output}: {progress.line(table.num_done)}{empty}")
    if stop is not None:
        raise stop


class Table:
    """The rows of a file that are still to predict, and the columns of the output."""

    def __init__(self, config: PredictConfig, loaded: LoadedClassifier, file: str) -> None:
        self.file, self.header, self.loaded, self.explain = (
            Path(file).expanduser(),
            config.header,
            loaded,
            config.explain,
        )
        self.text_column = config.text_column or loaded.checkpoint.info.data.text_column
        self.format = _format_of(file, "file")
        as_read = "csv" if self.format == "txt" else self.format
        self.output_format = as_read if config.output == STANDARD else _format_of(config.output, "output")
        if self.output_format == "txt":
            raise InputError(f"output={config.output}: has no place for columns; name a .csv, .tsv, .jsonl or .parquet")
        self.num_rows = self.num_done = self.num_empty = 0
        columns: dict[str, None] = {}
        for row in self._read():  # all, so that a bad row is named before anything is computed
            self.num_rows += 1
            columns.update(dict.fromkeys(row))
        find_columns(columns, repr(config.file), {"text_column": self.text_column})
        names = ["label", *(PROBABILITY + name for name in loaded.label_names)]
        names += ["words for", "words against"] if config.explain else []
        self.added = [f"predicted {name}" if name in columns else name for name in names]
        given = pa.schema([(name, pa.string()) for name in columns])
        if self.format == "parquet":
            given = pa.parquet.read_schema(self.file)
        elif self.format == "jsonl" and self.output_format == "parquet":
            given = pa.Table.from_pylist(next(in_chunks(self._read(), ROWS_AT_A_TIME))).schema
        kinds = [pa.float64() if PROBABILITY in name else pa.string() for name in self.added]
        self.schema = pa.schema([*given, *map(pa.field, self.added, kinds)], metadata=given.metadata)
        self.rows = self._read()

    def _read(self) -> Iterator[Row]:
        rows = read_rows(self.file, self.format, header=self.header, text_column=self.text_column)
        for number, row in enumerate(rows, start=1):
            text = row.get(self.text_column) or ""
            if not isinstance(text, str) or text.encode(errors="replace").decode() != text:
                raise InputError(f"{str(self.file)!r}, row {number}: {str(text)[:40]!r} is not a text in UTF-8")
            yield row

    def predict(self, rows: Sequence[Row], advance: Callable[[int], None]) -> list[Row]:
        """Return the rows with their predictions: none for an empty text. `advance` is told of each batch's size."""
        filled = [row for row in rows if (row.get(self.text_column) or "").strip()]
        texts, made = [row[self.text_column] for row in filled], {}
        advance(len(rows) - len(filled))
        found = self.loaded.classify(texts, advance)
        words = self._words(texts) if self.explain else [[]] * len(texts)
        for row, probabilities, some in zip(filled, found, words, strict=True):
            cells = [self.loaded.label_names[probabilities.argmax()], *probabilities.tolist(), *some]
            if self.output_format in ("csv", "tsv"):
                cells = list(map(csv_text, cells))
            made[id(row)] = dict(zip(self.added, cells, strict=True))
        self.num_empty += len(rows) - len(filled)
        return [row | made.get(id(row), dict.fromkeys(self.added)) for row in rows]

    def _words(self, texts: Sequence[str]) -> list[list[Any]]:
        """Return the strongest words for and against each prediction."""
        info = self.loaded.checkpoint.info
        explainer = Explainer(self.loaded.classifier, self.loaded.tokenizer, info, methods=DEFAULT_METHODS[:1])
        reviews = explainer.explain([ReviewToExplain(index=index, text=text) for index, text in enumerate(texts)])
        return [
            [
                ", ".join(top_words(each.tokens, each.offsets, each.text, sign * each.rows[0].values, NUM_WORDS))
                for sign in (1, -1)
            ]
            for each in reviews
        ]

    def take_done(self, output: Path) -> Iterator[Row]:
        """Yield the rows that a stopped run has written, and skip them in the file.

        Raises `InputError` if they are those of another file, or the last one is predicted otherwise.
        """
        again: list[Row] = []
        before: Row = {}
        for row in read_rows(output, self.output_format):
            given = next(self.rows, {})
            if (text := row.get(self.text_column) or "") != (given.get(self.text_column) or ""):
                raise InputError(f"output={output}: holds other rows' predictions; give another output")
            again, before = ([given], row) if text.strip() else (again, before)
            self.num_done += 1
            yield row
        for last in self.predict(again, lambda number: None):
            if any(str(last[name] or "") != str(before.get(name) or "") for name in self.added):
                raise InputError(f"output={output}: holds another checkpoint's predictions; give another output")


def _format_of(file: str, key: str) -> str:
    format = {".json": "jsonl"}.get(Path(file).suffix.lower(), Path(file).suffix.lower()[1:])
    if format not in FORMATS:
        raise InputError(f"{key}={file}: does not end in one of .{', .'.join(FORMATS)}")
    return format


class Progress:
    """How many rows are done, how fast and how long the rest takes: one line that changes, or a line per minute."""

    def __init__(self, total: int, *, done: int) -> None:
        self.total, self.first, self.done = total, done, done
        self.started = self.said = time.perf_counter()

    def advance(self, number: int) -> None:
        self.done, now = self.done + number, time.perf_counter()
        if sys.stderr.isatty() or now - self.said > SECONDS_BETWEEN_LINES:
            left = (self.total - self.done) * (now - self.started) / max(1, self.done - self.first)
            _say(f"{self.line(self.done)}, {duration(left)} left", end="\r" if sys.stderr.isatty() else "\n")
            self.said = now

    def line(self, done: int) -> str:
        seconds = time.perf_counter() - self.started
        rate = (done - self.first) / max(seconds, 1e-9)
        return f"{done:,} of {count_of(self.total, 'row')} in {duration(seconds)}, {rate:,.0f} per second"


def _say(line: str, end: str = "\n") -> None:
    print(f"{one_line_of(line):<78}", file=sys.stderr, end=end, flush=True)

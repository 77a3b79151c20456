"""File formats of reviews. A format is one function and one entry in READERS.

A reader returns a table that has at least the text and the label column, as the file stores them; `read_file` turns
them into strings. Readers are strict: every error names the file, and the line if there is one. Nothing is
guessed: a label "01" stays "01", and a review "NA" stays "NA".
"""

import difflib
import functools
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from bertlens.data.rows import json_rows, read_cells
from bertlens.data.settings import DataSettings
from bertlens.errors import InputError
from bertlens.system.escape import one_line_of

IS_STRING = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)


def read_file(file: Path, settings: DataSettings) -> pa.Table:
    """Return the reviews of a file as `text` and `label`, both strings. Raises `InputError` that names the file."""
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"{str(file)!r} does not end in one of {', '.join(READERS)}")
    return select_reviews(reader(file, settings), repr(str(file)), settings)


def read_text(file: Path) -> str:
    """Return the content of a UTF-8 file without its byte order mark."""
    try:
        content = file.read_bytes()
        return content.decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{str(file)!r}, line {number}, is not UTF-8: save the file as UTF-8") from error


def is_blank(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return for each string whether it is empty or white space only."""
    return pc.equal(pc.utf8_trim_whitespace(strings), "")


def select_reviews(table: pa.Table, where: str, settings: DataSettings) -> pa.Table:
    """Return the text and the label column of a table as strings. Raises `InputError` that names `where`."""
    check_columns(table.column_names, where, settings)
    if not table.num_rows:
        raise InputError(f"{where} is empty: it holds no reviews")
    texts = _to_strings(table, where, "text_column", settings.text_column)
    labels = _to_strings(table, where, "label_column", settings.label_column, pa.types.is_integer, pa.types.is_boolean)
    if num_blank := pc.sum(is_blank(labels)).as_py():
        raise InputError(
            f"{num_blank} of {table.num_rows} rows of {where} have no label in "
            f"data.label_column={settings.label_column!r}: label or remove them"
        )
    return pa.table({"text": texts, "label": labels})


def check_columns(columns: Iterable[str], where: str, settings: DataSettings) -> None:
    """Raise `InputError` unless the text and the label column are there, once each."""
    find_columns(columns, where, {f"data.{key}": getattr(settings, key) for key in ("text_column", "label_column")})


def find_columns(columns: Iterable[str], where: str, wanted: Mapping[str, str]) -> None:
    """Raise `InputError` unless each wanted column, by the key that names it, is there once."""
    columns = list(columns)
    if not columns:
        raise InputError(f"{where} is empty: it holds no reviews")
    for key, name in wanted.items():
        if name not in columns:
            nearest = "".join(f"did you mean {near!r}? " for near in difflib.get_close_matches(name, columns, n=1))
            there = ", ".join(map(reprlib.repr, columns))
            raise InputError(f"{where} has no column {key}={name!r}: {nearest}it has {there}")
        if columns.count(name) > 1:
            raise InputError(f"{where} has more than one column {key}={name!r}: rename all but one")


def _to_strings(
    table: pa.Table, where: str, key: str, name: str, *also_allowed: Callable[[pa.DataType], bool]
) -> pa.ChunkedArray:
    """Return the column `name` as strings, null as ""; class numbers become the names that `datasets` stored."""
    column = table[name]
    if pa.types.is_dictionary(column.type):  # what pandas writes for a categorical
        column = column.cast(column.type.value_type)
    if not any(is_kind(column.type) for is_kind in (*IS_STRING, *also_allowed)):
        wanted = "strings or integers" if also_allowed else "text"
        raise InputError(f"data.{key}={name!r} holds {column.type}, not {wanted}, in {where}")
    try:
        column.validate(full=True)  # Parquet readers do not check that strings are UTF-8
    except pa.ArrowInvalid as error:
        raise InputError(f"data.{key}={name!r} is not UTF-8 in {where}") from error
    feature = datasets.Features.from_arrow_schema(table.select([name]).schema)[name]
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names)) | {None: None}
        # a number without a name, such as the hub's -1 for a secret label, stays a number
        column = pa.chunked_array([[names.get(number, str(number)) for number in column.to_pylist()]], pa.string())
    return column.cast(pa.string()).fill_null("")


def _read_parquet(file: Path, settings: DataSettings) -> pa.Table:
    try:
        with pa.parquet.ParquetFile(file) as parquet:
            check_columns(parquet.schema_arrow.names, repr(str(file)), settings)
            return parquet.read(columns=[settings.text_column, settings.label_column])
    except InputError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{str(file)!r} cannot be read as Parquet: {one_line_of(str(error))[:200]}") from error


def _read_json_lines(file: Path, settings: DataSettings) -> pa.Table:
    columns: dict[str, None] = {}
    texts, labels = [], []
    for review in json_rows(file):
        columns.update(dict.fromkeys(review))
        texts.append(review.get(settings.text_column))
        labels.append(review.get(settings.label_column))
    check_columns(columns, repr(str(file)), settings)
    try:
        return pa.table({settings.text_column: texts, settings.label_column: labels})
    except (ValueError, TypeError, OverflowError) as error:  # half a character (\ud800) is a ValueError
        raise InputError(
            f"{str(file)!r} holds values of several types in one column, or half a character: "
            f"{one_line_of(str(error))[:200]}"
        ) from error


def _read_cells(file: Path, settings: DataSettings, *, format: str) -> pa.Table:
    rows = read_cells(file, format, header=settings.header)
    columns, where = next(rows, []), f"{str(file)!r} with data.header={str(settings.header).lower()}"
    check_columns(columns, where, settings)
    positions = {name: columns.index(name) for name in (settings.text_column, settings.label_column)}
    chosen = [[row[position] for position in positions.values()] for row in rows]
    return pa.table({name: [row[number] for row in chosen] for number, name in enumerate(positions)})


READERS: dict[str, Callable[[Path, DataSettings], pa.Table]] = {
    ".tsv": functools.partial(_read_cells, format="tsv"),
    ".csv": functools.partial(_read_cells, format="csv"),
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}

"""Rows of a file, one after the other, in and out: memory does not grow with the file.

A row is a dictionary of all its columns; cells of .csv and .tsv stay strings. Readers are strict: every error names the
file and the line. Whole files of labelled reviews: `readers.py`.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from bertlens.errors import InputError
from bertlens.system.escape import one_line_of

Row = dict[str, Any]
TSV: dict[str, Any] = {
    "delimiter": "\t",
    "quoting": csv.QUOTE_NONE,
    "quotechar": None,
}  # no quoting: quotes are the reviewer's
ROWS_PER_GROUP = 1024  # of Parquet


def read_rows(file: Path, format: str, *, header: bool = True, text_column: str = "text") -> Iterator[Row]:
    """Yield the rows of a file in the format csv, tsv, jsonl, parquet or txt: a row per line, of one column.

    header: whether the first line of csv or tsv names the columns; if not, they are "0", "1", ... Raises `InputError`
    that names the line, or the row of Parquet.
    """
    if format == "parquet":
        yield from _parquet_rows(file)
    elif format == "txt":
        yield from ({text_column: _without_newline(line)} for _, line in _lines_of(file))
    elif format == "jsonl":
        yield from json_rows(file)
    else:
        cells = read_cells(file, format, header=header)
        columns = next(cells, [])
        if len(set(columns)) < len(columns):
            raise InputError(f"{str(file)!r} has two columns of one name: rename all but one of {', '.join(columns)}")
        yield from (dict(zip(columns, row, strict=True)) for row in cells)


def _lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a UTF-8 file, without its byte order mark."""
    number = 0
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r}, line {number}, is not UTF-8: save the file as UTF-8") from error


def _without_newline(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def json_rows(file: Path) -> Iterator[Row]:
    """Yield each line of a JSON Lines file that is not blank."""
    for number, line in _lines_of(file):
        if not line.strip():
            continue
        where = f"{str(file)!r}, line {number},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON: {one_line_of(str(error))}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where} is not a JSON object: write one review per line")
        yield row


def read_cells(file: Path, format: str, *, header: bool) -> Iterator[list[str]]:
    """Yield the names of the columns of csv or tsv, then the cells of each row that is not blank."""
    columns: list[str] = []
    for number, row in (_csv_rows if format == "csv" else _tsv_rows)(file):
        cells = row or [""] * (len(columns) == 1)  # a blank line is an empty text if there are no other columns
        if cells and not columns:
            columns = cells if header else [str(position) for position in range(len(cells))]
            yield columns
            if header:
                continue
        if len(cells) not in (0, len(columns)):
            widths = f"has {len(cells)} columns where the first has {len(columns)}"
            raise InputError(f"{str(file)!r}, line {number}, {widths}")
        if cells:
            yield cells


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each row's last line and its cells: none of a blank line."""
    reader = csv.reader((line for _, line in _lines_of(file)), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{str(file)!r}, line {reader.line_num}, is not CSV: {error}") from error


def _tsv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line: none of a blank one. No quoting: quotes are the reviewer's."""
    for number, line in _lines_of(file):
        yield number, _without_newline(line).split("\t") if line.strip("\r\n") else []


def _parquet_rows(file: Path) -> Iterator[Row]:
    number = 0
    try:
        with pa.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROWS_PER_GROUP):
                for row in range(batch.num_rows):  # one by one, to name a row
                    number += 1
                    yield {name: column[row].as_py() for name, column in zip(batch.column_names, batch, strict=True)}
    except UnicodeDecodeError as error:
        raise InputError(f"{str(file)!r}, row {number}, is not UTF-8") from error
    except (OSError, pa.ArrowException) as error:
        reason = one_line_of(str(getattr(error, "strerror", None) or error))
        raise InputError(f"{str(file)!r} cannot be read: {reason[:200]}") from error


@contextmanager
def open_writer(stream: IO[bytes], format: str, schema: pa.Schema) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Give a function that writes rows to `stream`, which is whole when the block ends. `schema` has all columns.

    Raises `InputError` for a row that does not fit.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    table = csv.DictWriter(text, schema.names, lineterminator="\n", **(TSV if format == "tsv" else {}))
    parquet = pa.parquet.ParquetWriter(stream, schema) if format == "parquet" else None

    def write(rows: Sequence[Row]) -> None:
        try:
            if parquet is not None:
                parquet.write_table(pa.Table.from_pylist(rows, schema=schema))
            elif format == "jsonl":  # half a character, which has no UTF-8, becomes JSON's own escape
                text.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
            else:
                table.writerows(rows)
        except (ValueError, TypeError, OverflowError, csv.Error, pa.ArrowException) as error:
            where = f"a row cannot be written as {format}, whose columns are {', '.join(schema.names)}"
            raise InputError(f"{where}: {one_line_of(str(error))[:200]}") from error

    try:
        if format in ("csv", "tsv"):
            write([dict(zip(schema.names, schema.names, strict=True))])
        yield write
    finally:
        if parquet is not None:
            parquet.close()
        text.detach()  # the stream is its owner's to close


def in_chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of so many, the last one maybe shorter."""
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

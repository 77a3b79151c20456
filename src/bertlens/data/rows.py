"""Rows of a file, one after the other, in and out: memory does not grow with the file.

A row is a dictionary of all its columns; cells of .csv and .tsv stay strings. Whole files of labelled reviews:
`readers.py`.
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

from bertlens.data.readers import NumberedRow, check_width, csv_rows, json_rows, read_lines, tsv_rows
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
    where = repr(str(file))
    try:
        with file.open("rb") as stream:
            lines = read_lines(stream, where)
            if format == "parquet":
                yield from _parquet_rows(file)
            elif format == "txt":
                yield from ({text_column: line.removesuffix("\n").removesuffix("\r")} for line in lines)
            elif format == "jsonl":
                yield from json_rows(lines, where)
            else:
                yield from _named(csv_rows(lines, where) if format == "csv" else tsv_rows(lines, where), where, header)
    except (OSError, pa.ArrowException) as error:
        reason = one_line_of(str(getattr(error, "strerror", None) or error))
        raise InputError(f"{where} cannot be read: {reason[:200]}") from error


def _named(rows: Iterable[NumberedRow], where: str, header: bool) -> Iterator[Row]:
    columns: list[str] = []
    for number, row in rows:
        if not columns:
            columns = row if header else [str(position) for position in range(len(row))]
            if len(set(columns)) < len(columns):
                raise InputError(f"{where} has two columns of one name: rename all but one of {', '.join(columns)}")
            if header:
                continue
        cells = row or [""] * (len(columns) == 1)  # a blank line is an empty text if there are no other columns
        if cells:
            check_width(columns, number, cells, where)
            yield dict(zip(columns, cells, strict=True))


def _parquet_rows(file: Path) -> Iterator[Row]:
    number = 0
    with pa.parquet.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(ROWS_PER_GROUP):
            for row in range(batch.num_rows):  # one by one, to name a row
                number += 1
                try:
                    yield {name: column[row].as_py() for name, column in zip(batch.column_names, batch, strict=True)}
                except UnicodeDecodeError as error:
                    raise InputError(f"{str(file)!r}, row {number}, is not UTF-8") from error


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

"""Parquet files: a row is a document, and the spans are row groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tfrecords.decompression import UNREADABLE
from tfrecords.errors import InputError, one_line
from tfrecords.text.decoding import Reading, decode
from tfrecords.text.rows import Row, missing_field
from tfrecords.text.spans import Span

if TYPE_CHECKING:
    import pyarrow.parquet

_ROWS_PER_BATCH = 1024
_BUFFER_BYTES = 1 << 20
"""Columns are read through a buffer of this size: without one, those of a row group are in memory
as a whole."""


def parquet_spans(path: str, span_bytes: int) -> list[Span]:
    """A span for every row group."""
    with _opened(path) as file:
        sizes = [
            file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)
        ]
        return [Span(path, group, group + 1, size) for group, size in enumerate(sizes)]


def parquet_rows(span: Span, reading: Reading) -> Iterator[Row]:
    """Yields the rows of a span.

    Raises:
        InputError: pyarrow is not installed, or the file is no Parquet file with the column.
    """
    with _opened(span.path) as file:
        schema = file.schema_arrow
        column, nested = _place(schema, reading.field)
        if column is None:
            raise missing_field(span.path, reading.field, schema.names)
        groups = range(span.start, file.num_row_groups if span.end is None else span.end)
        for group in groups:
            batches = file.iter_batches(
                _ROWS_PER_BATCH, row_groups=[group], columns=[reading.field]
            )
            values = (value for batch in batches for value in _values(batch, column, nested))
            for row, value in enumerate(values):
                where = f"{span.path}, row {row:,} of row group {group}"
                yield Row(where, _text(value, where, reading), schema.names)


def _place(schema: Any, field: str) -> tuple[str | None, list[str]]:
    """The column of a field and the path to it inside: the column of that name, or else by a path
    "a.b" to b inside of a; None if there is none."""
    if field in schema.names:
        return field, []
    column, *nested = field.split(".")
    if not nested or column not in schema.names:
        return None, []
    kind = schema.field(column).type
    for name in nested:
        # Lists and maps have fields too, but no one value for a row.
        is_struct = str(kind).startswith("struct<")
        names = [kind.field(index).name for index in range(kind.num_fields * is_struct)]
        if name not in names:
            return None, []
        kind = kind.field(names.index(name)).type
    return column, nested


def _values(batch: Any, column: str, nested: list[str]) -> Any:
    """The values of a batch, as an array of pyarrow."""
    values = batch.column(batch.schema.names.index(column))
    if nested:
        import pyarrow.compute

        values = pyarrow.compute.struct_field(values, nested)
    return values


def _text(value: Any, where: str, reading: Reading) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:  # pyarrow does not check what it reads
        return decode(value.as_buffer().to_pybytes(), where, 0, reading)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Opens a Parquet file (pyarrow.parquet.ParquetFile)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "Expected the package pyarrow, which reads Parquet. Received: none; pip install "
            "'.[parquet]' in the clone."
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            yield file
    # What the disk says stays as it is; what pyarrow says of the content is an InputError.
    except MemoryError:  # pyarrow's own is an ArrowException too
        raise
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in UNREADABLE:
            raise
        raise InputError(
            f"{path}: expected a Parquet file. Received: {one_line(error).rstrip('.')}."
        ) from None

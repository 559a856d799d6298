"""Read parquet files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.formats.file_format import FileFormat, Record

BATCH_SIZE = 1024  # rows in memory at once


def read_parquet(file: Path) -> Iterator[Record]:
    """Read every row as (where, {column: value}). Raises ValueError if it is not a parquet file."""
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from None
    number = 0
    try:
        for batch in table.iter_batches(batch_size=BATCH_SIZE):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: a broken parquet file, after row {number} ({reason}); make it again") from None


FORMAT = FileFormat((".parquet",), read_parquet, signature=b"PAR1")

"""Read arrow files, as `save_to_disk` of datasets and `to_feather` of pandas write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.formats.file_format import FileFormat, Record


def read_arrow(file: Path) -> Iterator[Record]:
    """Read every row as (where, {column: value}). Raises ValueError if it is not an arrow file."""
    from pyarrow import ArrowException, ipc, memory_map

    number = 0
    try:
        with memory_map(str(file)) as source:
            for batch in _batches(source, ipc):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}:{number}", row
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file}: not an arrow file ({str(error).splitlines()[0]})") from None


def _batches(source: Any, ipc: Any) -> Iterator[Any]:
    """The record batches of the file's format or, as datasets writes, of the stream's."""
    try:
        reader = ipc.open_file(source)
    except ValueError:  # ArrowInvalid
        source.seek(0)
        yield from ipc.open_stream(source)
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


FORMAT = FileFormat((".arrow", ".feather"), read_arrow, signature=b"ARROW1")

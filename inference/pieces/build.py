"""Vectors whose files have no size before all texts are encoded: each block is a file of its own, joined at the end."""

from __future__ import annotations

import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

from data.store.texts import ids_of, texts_digest
from engines.distributed.collectives import all_agree, broadcast_object, on_main
from engines.distributed.process_group import is_main
from inference.runner import Runner, similarity_of
from inference.vector_files import META, block_slices, difference, workspace_of
from inference.vector_source import Prompts, TextSource, encode_blocks, num_cut, prompts_digest
from inference.vectors import locked
from tensors.ragged import Rows, finite_rows

logger = logging.getLogger(__name__)

BLOCK_ROWS = 256  # texts that a rank encodes at once: what a killed process loses


class Form(ABC):
    """How vectors are stored."""

    format: ClassVar[str]  # of meta.json
    what: ClassVar[str]  # in words
    key: Mapping[str, str] = {}  # what else they depend on

    def stored(self, rows: Rows) -> Any:
        """The rows as they are written: what is not finite there is an error."""
        return rows

    @abstractmethod
    def write(self, stream: IO[bytes], rows: Any, num_cut: int) -> None:
        """Write the rows of a block, `num_cut` of whose texts were cut."""

    @abstractmethod
    def join(self, folder: Path, pieces: Sequence[Path], ids: Sequence[str]) -> dict[str, Any]:
        """Write the files of a folder from all blocks. Returns what meta.json says of them."""


def encode_pieces(
    form: Form,
    runner: Runner,
    tokenizer: Any,
    texts: Mapping[str, str],
    folder: Path,
    *,
    role: str,
    prompts: Prompts = None,
    token_budget: int,
    key: Mapping[str, str],
    dim: int | None = None,
    block_rows: int = BLOCK_ROWS,
) -> None:
    """Encode texts, queries or documents (`role`), to `folder`, unless it has their vectors. Call it on all ranks.
    `key`, `dim`: as of `inference.vectors.encode_texts`. Blocks of texts are shared over the ranks; a process that was
    killed goes on with those that are missing. While they are joined the disk holds all vectors twice.

    Raises ValueError, in one line, if the folder is another's, or a vector is not finite.
    """
    if not texts:
        raise ValueError(f"there are no texts to encode to {folder}")
    whole_key = {
        **key,
        **form.key,
        "texts": texts_digest(texts),
        "role": role,
        "prompt": prompts_digest(prompts),
        "similarity": similarity_of(runner.model).name,
        "dim": str(dim),
    }
    if on_main(lambda: _is_there(folder, form, whole_key)):
        return
    source = TextSource(runner, tokenizer, texts, role, prompts, token_budget, dim)
    with locked(folder):
        _make(folder, form, source, whole_key, list(block_slices(len(texts), block_rows)))


def _is_there(folder: Path, form: Form, key: Mapping[str, str]) -> bool:
    """Whether `folder` has the vectors of `key`. One of anything else is refused."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = read_meta(folder, form)["key"]
    except ValueError as error:
        raise ValueError(f"{error}: it is left alone, choose another folder") from None
    if other := difference(found, key):
        raise ValueError(f"{folder} has vectors of {other}: choose another folder, or remove it")
    return True


def read_meta(folder: Path, form: type[Form] | Form) -> dict[str, Any]:
    """What meta.json says. Raises ValueError if the folder holds no vectors of that form."""
    try:
        meta = json.loads((folder / META).read_text())
    except (OSError, ValueError):
        meta = {}
    if not isinstance(meta, dict) or meta.get("format") != form.format:
        raise ValueError(f"{folder} holds no {form.what}")
    return meta


def _make(folder: Path, form: Form, source: TextSource, key: Mapping[str, str], blocks: list[slice]) -> None:
    work = workspace_of(folder)
    pieces = [work / f"{number:08d}.npz" for number in range(len(blocks))]
    on_main(lambda: _prepare(work, {"key": dict(key), "blocks": len(blocks)}))
    if not all_agree(work.is_dir()):
        raise ValueError(f"{folder.parent} is not the same folder on all nodes: choose a shared one")
    missing = broadcast_object([n for n, file in enumerate(pieces) if not file.is_file()] if is_main() else [])
    if is_main():
        done = len(blocks) - len(missing)
        going_on = f"; {done:,} of {len(blocks):,} blocks are there already" if done else ""
        logger.warning("encoding %s texts (%s) to %s%s", f"{len(source.texts):,}", source.role, folder, going_on)

    def write(number: int, found: Rows, sequences: Any) -> None:
        rows = form.stored(similarity_of(source.runner.model).comparable(found, source.dim))
        finite = finite_rows(rows)
        if not finite.all():
            name = ids_of(source.texts)[blocks[number].start + int(finite.int().argmin())]
            raise ValueError(f"the vector of {name!r} is not finite: check the weights, and its precision")
        temporary = pieces[number].with_suffix(".tmp")
        with temporary.open("wb") as stream:
            form.write(stream, rows, num_cut(sequences))
        os.replace(temporary, pieces[number])

    encode_blocks(source, blocks, missing, write)
    on_main(lambda: _publish(folder, work, form, source, key, pieces))


def _prepare(work: Path, state: Mapping[str, Any]) -> None:
    """Make the workspace, or keep that of the same vectors."""
    file = work / "state.json"
    if file.is_file() and json.loads(file.read_text()) == state:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    file.write_text(json.dumps(state))


def _publish(
    folder: Path, work: Path, form: Form, source: TextSource, key: Mapping[str, str], pieces: Sequence[Path]
) -> None:
    """Join the blocks, and put the folder in its place."""
    new = work / "folder"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    found = form.join(new, pieces, ids_of(source.texts))
    meta = {"format": form.format, **found, "similarity": key["similarity"], "role": source.role, "key": dict(key)}
    (new / META).write_text(json.dumps(meta, indent=1) + "\n")
    if folder.exists():  # an empty one
        folder.rmdir()
    os.replace(new, folder)
    shutil.rmtree(work)

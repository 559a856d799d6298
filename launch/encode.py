"""Encode a corpus, or the queries of a split, to vectors in memory-mapped files: for numpy, faiss, usearch.

  python launch/encode.py data=beir data.path=FOLDER output=vectors                 the documents, float32
  python launch/encode.py model.name_or_path=outputs/RUN/model output=vectors       by a model that was trained
  python launch/encode.py encode.precision=int8 output=vectors                      a byte per value (fp16, binary too)
  python launch/encode.py encode.dim=128 encode.precision=binary output=vectors     the first 128 dimensions, a bit each
  python launch/encode.py encode.role=queries split=test output=queries             queries, with their prompt
  torchrun --nproc_per_node=8 launch/encode.py data=beir data.path=FOLDER output=vectors    by 8 GPUs, the same bytes

The folder holds vectors.npy, ids.jsonl and meta.json; of a sparse encoder vectors.npz, for scipy.sparse.load_npz; of
late interaction values.npy and offsets.npy, where the vectors of each text begin. A command that was killed goes on
where it was. Vectors of another model, length, prompt or corpus are never taken for these: a line says what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

OPTION_NAMES = {"eval.token_budget (in training trainer.token_budget)": "encode.token_budget"}  # of messages

if TYPE_CHECKING:
    from recipes.negatives.encode_run import EncodeConfig


def main(settings: EncodeConfig) -> None:
    from recipes.negatives.encode_run import encode  # torch, only once the command line is known to be right

    encode(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "encode", about=__doc__, option_names=OPTION_NAMES)

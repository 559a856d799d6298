"""Mine hard negatives for the queries of a data set, and write them in a shape that trainers read, with an audit.

  python launch/mine.py data=beir data.path=FOLDER output=mined.jsonl                       by MiniLM, over the corpus
  python launch/mine.py data=beir data.path=FOLDER output=mined.jsonl model=bm25            by BM25
  python launch/mine.py data=file data.path=pairs.jsonl output=mined.jsonl model.name_or_path=PATH    by your own model
  python launch/mine.py data=beir data.path=FOLDER output=mined.jsonl model@hybrid=bm25     both, their scores fused
  python launch/mine.py data=beir data.path=DIR output=mined.jsonl model@rescore=cross_encoder rescore.name_or_path=PATH
  python launch/mine.py data=beir data.path=FOLDER output=triplets.jsonl mine.output=triplet mine.relative_margin=0.05
  torchrun --nproc_per_node=8 launch/mine.py data=beir data.path=FOLDER output=mined.jsonl  by 8 GPUs

Judged and excluded documents, the query's own text, and texts equal or nearly equal to them never become negatives. The
audit (OUTPUT.audit.json and .html) says which slots are empty and why, and which negatives may be relevant after all.
A command that was killed goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.negatives.mine_run import MineConfig


def main(settings: MineConfig) -> float:
    from recipes.negatives.mine_run import mine  # torch, only once the command line is known to be right

    return mine(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "mine", about=__doc__)

"""Find negatives of training lists that are likely relevant, by a reranker: report them, drop them, or relabel them.

  python launch/relabel.py data=file data.path=mined.jsonl model.name_or_path=RERANKER output=report.json
  python launch/relabel.py data=file data.path=mined.jsonl model.name_or_path=RERANKER action=drop output=clean.jsonl
  python launch/relabel.py data=beir data.path=FOLDER model.name_or_path=RERANKER action=drop output=never.tsv
  python launch/relabel.py data=beir data.path=FOLDER model.name_or_path=RERANKER action=relabel output=train.tsv
  python launch/relabel.py data=file data.path=mined.jsonl model.name_or_path=RERANKER 'judges=[SECOND]' output=r.json

A negative is suspected if its score is near that of the query's lowest positive (threshold). Queries of dev and test
are never judged. After an interruption the same command goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.negatives.relabel_run import RelabelConfig


def main(settings: RelabelConfig) -> float:
    from recipes.negatives.relabel_run import relabel  # torch, only once the command line is known to be right

    return relabel(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "relabel", about=__doc__)

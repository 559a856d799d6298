"""Evaluate a ranker on held-out queries, alone and fused with the first stage, with paired tests against it.

  python launch/evaluate.py model=bm25                                       the first stage alone
  python launch/evaluate.py model.name_or_path=outputs/RUN/model             a reranker, on the first stage's candidates
  python launch/evaluate.py model=bi_encoder model.name_or_path=FOLDER       an embedding model, over the whole corpus
  python launch/evaluate.py model=bm25 data=beir data.path=FOLDER            on your own data (docs/reference.md)
  python launch/evaluate.py model=bm25 data=suite 'data.sources=[FOLDER]'    several data sets, and their mean
  python launch/evaluate.py model=bm25 split=dev output=results.json         another split; also written as JSON
  python launch/evaluate.py model=bi_encoder output=new.json against=old.json    compared with another run
  python launch/evaluate.py 'first_stages=[bm25,FILE.run]' 'eval.depths=[10,30]'    from several first stages, by depth
  torchrun --nproc_per_node=8 launch/evaluate.py model=llm_reranker_qwen3    by 8 GPUs

The results are printed, with intervals and paired tests; output=FILE.json also writes them, the values of each query
and the rankings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.evaluate.config import EvaluationConfig


def main(settings: EvaluationConfig) -> float:
    from recipes.evaluate.run import evaluate  # torch, only once the command line is known to be right

    return evaluate(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "evaluate", about=__doc__)

"""Score the documents of lists by a teacher: any reranker or embedder. Training by distillation reads the result.

  python launch/score.py data=file data.path=mined.jsonl model.name_or_path=TEACHER output=scored.jsonl
  python launch/score.py data=beir data.path=FOLDER model.name_or_path=TEACHER output=teacher.jsonl
  python launch/score.py data=beir data.path=FOLDER data/candidates=run data.candidates.path=FILE.run output=t.run
  python launch/score.py model=bi_encoder data=file data.path=mined.jsonl output=scored.jsonl
  torchrun --nproc_per_node=8 launch/score.py model=llm_reranker_qwen3 data=file data.path=mined.jsonl output=s.jsonl

Scores are logits (an embedder's: similarities). A file's lists are written with texts, labels and scores, and read by
data=file; those of data with ids by id, or as a TREC run, and read by data/candidates=run. After an interruption the
same command goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.negatives.score_run import ScoreConfig


def main(settings: ScoreConfig) -> float:
    from recipes.negatives.score_run import score  # torch, only once the command line is known to be right

    return score(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "score", about=__doc__)

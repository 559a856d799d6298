"""Write questions for documents by a language model, keep those that a retriever answers, and write pairs to train on.

  python launch/make_queries.py data=documents data.path=FOLDER output=pairs.jsonl         questions, by SmolLM2
  python launch/make_queries.py data=beir data.path=FOLDER output=pairs.jsonl num_documents=1000 num_texts=3
  python launch/make_queries.py data=beir data.path=DIR output=p.jsonl model=generator model@retriever=bi_encoder
  python launch/make_queries.py make=paraphrases data=beir data.path=FOLDER output=more.jsonl      of training queries
  python launch/make_queries.py make=negatives data=beir data.path=DIR output=n.jsonl model@teacher=cross_encoder
  torchrun --nproc_per_node=8 launch/make_queries.py data=beir data.path=FOLDER output=pairs.jsonl          by 8 GPUs

A question is kept only if model@retriever finds its document among the first round_trip documents of the corpus. The
audit (OUTPUT.audit.json and .html) counts what is left out and why, with samples. data=file reads the output. A command
that was killed goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.questions.config import MakeQueriesConfig


def main(settings: MakeQueriesConfig) -> float:
    from recipes.questions.run import make_queries  # torch, only once the command line is known to be right

    return make_queries(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "make_queries", about=__doc__)

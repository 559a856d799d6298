"""Choose a model on your own data: measure several, and name the cheapest that is tied with the best, with reasons.

  python launch/choose.py data=beir data.path=FOLDER models=[outputs/RUN/model,BAAI/bge-m3] output=choice   embedders
  python launch/choose.py data=beir data.path=FOLDER models=[PATH,PATH] output=choice limit.query_ms_p95=50   a limit
  python launch/choose.py models=[PATH] output=choice limit.index_bytes=1e9 'limit.licence=[apache-2.0,mit]'   two
  python launch/choose.py data=beir data.path=FOLDER models=[PATH,PATH] output=choice model@of=cross_encoder   rerankers
  python launch/choose.py data=documents data.path=FOLDER models=[PATH] output=choice   without queries and judgements
  torchrun --nproc_per_node=8 launch/choose.py data=beir data.path=FOLDER models=[PATH] output=choice   by 8 GPUs

BM25 is always measured too. Of each model: what it reads of your texts and cuts, how it breaks their words, quality
with intervals in fewer dimensions and bits, speed, memory, licence and what is known of its training. output holds
choose.html, choose.json, and the rankings and values of each query. The same command goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from launch.cli.entry import run
    from launch.cli.errors import end_process
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.choose.config import ChooseConfig


def main(settings: ChooseConfig) -> None:
    from recipes.choose.run import choose  # torch, only once the command line is known to be right

    choose(settings, on_lost_rank=end_process)


if __name__ == "__main__":
    run(main, "choose", about=__doc__)

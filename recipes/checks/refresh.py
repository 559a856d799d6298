"""Check that a refresh of candidates can change what is trained, before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.option_names import rename_options
from losses.contracts import input_names
from recipes.run_config import RunConfig


def check_refresh(settings: RunConfig, losses: Sequence[Any]) -> None:
    """Raise ValueError if model, losses and options of the trainer do not fit `trainer.refresh_every`."""
    options = settings.trainer
    if not options.refresh_every:
        return
    option = f"trainer.refresh_every={options.refresh_every}"
    if options.max_epochs is None:
        check_refresh_is_reached(options, options.max_steps)
    if options.list_size == 1:
        raise ValueError(f"{option}: lists of one document hold no negatives: raise trainer.list_size, or set it to 0")
    searches = "embedding" in settings.model.outputs
    if options.refresh_documents is not None and not searches:
        raise ValueError(
            f"trainer.refresh_documents={options.refresh_documents} is for embedding models, which search the corpus; "
            "a reranker scores candidates again: leave it out (trainer.refresh_depth says how many)"
        )
    for loss in losses:
        inputs, name = input_names(loss), type(loss).__name__
        if options.reference == "precomputed" and any(each.startswith("reference_") for each in inputs):
            raise ValueError(
                f"{option}: loss {name} compares with a reference, which cannot score lists in advance that are not "
                "known yet: set trainer.reference=frozen"
            )
        if searches and "teacher_scores" in inputs and settings.teacher is None:
            raise ValueError(
                f"{option}: loss {name} reads a teacher's scores, and the data have none for documents that the model "
                "finds: add a teacher (model@teacher=cross_encoder), or set trainer.refresh_every=0"
            )


def check_refresh_is_reached(options: Any, num_steps: int) -> None:
    """Raise ValueError if a training of that many steps ends before its first refresh."""
    replaces_lists = getattr(options, "refresh_attempts", 0) > 0
    if 0 < num_steps <= options.refresh_every and not replaces_lists:
        raise ValueError(
            f"trainer.refresh_every={options.refresh_every}: nothing is refreshed in {num_steps} steps of training: "
            "set it below that, or to 0"
        )


def check_refreshed_lists(settings: RunConfig, source: Any) -> None:
    """Raise ValueError if the training lists of a data set would be the same without a refresh."""
    options = settings.trainer
    if not options.refresh_every:
        return
    option, lists, train = f"trainer.refresh_every={options.refresh_every}", source.lists, source.split("train")
    if train.degrees:
        raise ValueError(
            f"{option}: data {source.name}: {train.degrees}, so labels are degrees of similarity, and lists hold no "
            "negatives: set it to 0"
        )
    if not _draws_candidates(lists.random_fraction, options.list_size) and not getattr(options, "refresh_attempts", 0):
        raise ValueError(
            f"{option}: with {source.node}.lists.random_fraction={lists.random_fraction:g} and trainer.list_size="
            f"{options.list_size} all negatives are random: lower {source.node}.lists.random_fraction, or set it to 0"
        )
    if "embedding" not in settings.model.outputs:
        check_window(source, option, options.refresh_depth)


def check_window(source: Any, option: str, depth: int) -> None:
    """Raise ValueError if the order of a reranker's first `depth` candidates does not change which are drawn."""
    candidates, drawn_from = source.split("train").candidates, source.lists.hard_depth
    if depth > drawn_from and any(len(found) > drawn_from for found in candidates.values()):
        return
    window = min(depth, max((len(found) for found in candidates.values()), default=0))
    if window < 2:
        raise ValueError(
            f"{option}: a reranker orders candidates anew, and the queries of data {source.name} have none or one: "
            f"choose {rename_options('data/candidates=bm25', source.node)}, or set it to 0"
        )
    more = "trainer.refresh_depth" if depth == window else f"{source.node}.candidates.depth"
    raise ValueError(
        f"{option}: a reranker changes the order of the first {window} candidates of a query, and negatives are drawn "
        f"from the first {drawn_from}, whatever their order: set {source.node}.lists.hard_depth below {window}, raise "
        f"{more}, or set it to 0"
    )


def _draws_candidates(random_fraction: float, list_size: int) -> bool:
    """Whether a list with one relevant document has a place for a candidate."""
    others = list_size - 1
    return others - round(random_fraction * others) > 0

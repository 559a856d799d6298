"""The table of questions: what is measured with which sizes, and when it holds.

The estimate of a question is of five pairs (three seeds of a quality) on two idle cores; all together stay below 70
minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.speed import checks
from benchmarks.speed.checks import Check
from benchmarks.speed.setting import DOCSTRINGS, FOLDER, RANDOM, SIDES, Setting

MERGED, EACH = "repeats merged", "each text by itself"
GRPO, SUPERVISED = "GRPO, 64 rankings", "supervised"
SHARED, SEPARATE = "prefix once a list", "prefix with each document"
FASTER = "rows/s, plackett / sentence-transformers"
LIMIT = 256  # tokens


@dataclass(frozen=True)
class Question:
    """A row of the table. `needs` returns why it cannot be measured, or "". `differs`: a figure of the first step that
    is equal on both sides if the option that they differ in has no effect."""

    name: str
    title: str
    setting: Setting
    checks: tuple[Check, ...]
    minutes: float
    pairs: int | None = None  # None: as the command line says
    differs: str = ""
    needs: Callable[[], str] = lambda: ""

    @property
    def sides(self) -> tuple[str, ...]:
        return tuple(self.setting.sides or SIDES)


def faster(factor: float) -> Check:
    return Check(FASTER, checks.speed, factor, form="{:.2f}x")


SHARE = Check("share of the highest fp32 matmul peak (AMD: oneDNN)", checks.share("share_of_peak"), 0.65, form="{:.0%}")
TORCH_SHARE = Check("share of the peak of torch's a @ b", checks.share("share_of_torch_peak"), 0.65, form="{:.0%}")
MEMORY = Check("peak memory, plackett / sentence-transformers", checks.memory, 1.0, at_most=True, form="{:.2f}x")
SAME = Check("relative difference of results", checks.largest("difference"), 1e-4, at_most=True, form="{:.0e}")
QUALITY = Check(
    "difference of the means, in standard deviations over seeds", checks.quality_in_spreads, -1.0, form="{:+.2f}"
)
LOSSES = Check("relative difference of a step's loss", checks.difference_of_losses, 1e-3, at_most=True, form="{:.0e}")
SAVED = Check("saved share of the time / share that is repeated", checks.saved(MERGED, EACH), 0.9)


def natural(data: str, path: str) -> list[Question]:
    """The questions on natural texts: the docstrings of installed libraries (to 128 tokens, most far shorter), or a
    folder of BEIR's layout (to 512)."""
    is_folder = data == FOLDER
    name = "folder" if is_folder else "docstrings"
    where = f"{Path(path).name or 'a folder'}, to 512 tokens" if is_folder else "docstrings, to 128 tokens"
    common = {"data": data, "path": path, "max_length": 512 if is_folder else 128, "steps": 2 if is_folder else 4}
    needs = (lambda: "" if path else "it needs --data FOLDER, in BEIR's layout (SciFact)") if is_folder else lambda: ""
    contrastive, listwise = Setting("contrastive", **common), Setting("listwise", batch_size=4, list_size=8, **common)
    inference = common | {"max_length": LIMIT, "steps": 1, "warm_up": 1}
    encode = Setting("encode", batch_size=150 if is_folder else 500, **inference)
    rerank = Setting("rerank", batch_size=1 if is_folder else 4, list_size=100, **inference)
    longer = 2 if is_folder else 1
    rows = [
        (f"infonce_{name}", f"InfoNCE, {where}", contrastive, (faster(1.6),), 2 * longer),
        (f"listwise_{name}", f"listwise cross-encoder, {where}", listwise, (faster(1.6),), 2 * longer),
        (f"encode_{name}", f"encode a corpus, {where.split(',')[0]}", encode, (faster(1.3), SAME), 2),
        (f"rerank_{name}", f"rerank lists of 100, {where.split(',')[0]}", rerank, (faster(1.3), SAME), 2),
    ]
    return [Question(*row, needs=needs) for row in rows]


def quality() -> list[Question]:
    """Equal quality after equal steps: the metric of held-out queries with dropout, and equal losses without."""
    common = {"warm_up": 0, "steps": 1}
    infonce = Setting(
        "contrastive", quality_steps=30, overrides=("eval.max_documents=2000", "eval.max_queries=150"), **common
    )
    listwise = Setting(
        "listwise", batch_size=4, list_size=8, quality_steps=30, overrides=("eval.max_queries=150",), **common
    )
    found = []
    for name, title, setting, minutes in (("infonce", "InfoNCE", infonce, 7), ("listwise", "listwise", listwise, 7)):
        found.append(
            Question(f"quality_{name}", f"{title}: nDCG@10 after equal steps", setting, (QUALITY,), minutes, pairs=3)
        )
        same = replace(setting, quality_steps=5, evaluate=False, overrides=("model.dropout=0",))
        found.append(
            Question(f"losses_{name}", f"{title}: losses of equal steps, dropout 0", same, (LOSSES,), 1, pairs=1)
        )
    return found


def other_kinds() -> list[Question]:
    """Late interaction and sparse encoders: their speed, and equal losses without dropout."""
    found = []
    for kind, experiment in (("late interaction", "colbert_infonce"), ("sparse encoder", "splade_infonce")):
        setting, name = Setting("contrastive", experiment=experiment), experiment.partition("_")[0]
        speed = Question(f"{name}_docstrings", f"InfoNCE, {kind}, docstrings", setting, (faster(1.3),), 3)
        # The penalties of a sparse encoder grow over the first third of the steps on both sides: a number that has one.
        few = {"quality_steps": 6, "evaluate": False, "warm_up": 0, "steps": 1}
        same = replace(setting, overrides=("model.dropout=0",), **few)
        title = f"InfoNCE, {kind}: losses of equal steps, dropout 0"
        found += [speed, Question(f"losses_{name}", title, same, (LOSSES,), 1, pairs=1)]
    return found


def at_the_limit() -> list[Question]:
    """All texts at the length limit: nothing is padded on either side."""
    common = {"data": RANDOM, "max_length": LIMIT, "words": (LIMIT + 20, LIMIT + 20), "steps": 2}
    contrastive = Setting("contrastive", batch_size=4, query_words=LIMIT + 20, **common)
    listwise = Setting("listwise", batch_size=2, list_size=8, **common)
    bounds = (faster(1.15), SHARE, TORCH_SHARE)
    return [
        Question("infonce_limit", f"InfoNCE, all texts at {LIMIT} tokens", contrastive, bounds, 3),
        Question("listwise_limit", f"listwise cross-encoder, all pairs at {LIMIT} tokens", listwise, bounds, 3),
    ]


def cached() -> Question:
    setting = Setting("contrastive", batch_size=512, list_size=1, token_budget=2048, steps=1, warm_up=1)
    return Question("cached_infonce", "cached InfoNCE, 512 queries, token budget", setting, (faster(1.4), MEMORY), 8)


def repeats(share: float, list_size: int) -> Question:
    sides = {side: ("embedder_infonce", f"trainer.merge_repeats={side == MERGED}".lower()) for side in (MERGED, EACH)}
    drawn = {0.1: 0.4, 0.5: 0.82}[share]  # of the negatives; the first of each text is no repeat
    setting = Setting("ours", data=RANDOM, batch_size=32, list_size=list_size, repeated=drawn, steps=2, sides=sides)
    name, title = f"repeats_{share * 100:.0f}", f"about {share:.0%} of the texts repeated, merged or not"
    return Question(name, title, setting, (SAVED,), 2, needs=lambda: lacks_option("merge_repeats"))


def grpo() -> Question:
    sides = {
        GRPO: ("reranker_grpo", "loss.num_generations=64"),
        SUPERVISED: ("reranker_contrastive", "model.dropout=0"),  # GRPO runs without dropout, too
    }
    setting = Setting("ours", batch_size=4, list_size=8, steps=3, sides=sides)
    check = Check("time, GRPO / supervised", checks.seconds(GRPO, SUPERVISED), 1.05, at_most=True, form="{:.2f}x")
    return Question("grpo", "GRPO at 64 rankings beside a supervised listwise step", setting, (check,), 2)


def prefix() -> Question:
    """A tiny Qwen3 with random weights, which the process that makes the texts writes."""
    sides = {
        side: (
            "llm_reranker_sft",
            "model=llm_reranker",
            "model.template=qwen3",
            "model.dropout=0",
            f"model.shared_prefix={side == SHARED}",
        )
        for side in (SHARED, SEPARATE)
    }
    setting = Setting(
        "ours",
        data=RANDOM,
        tiny_decoder=True,
        batch_size=1,
        list_size=16,
        max_length=512,
        words=(16, 16),  # with the end of the prompt about 64 tokens behind a prefix of about 130
        query_words=2,
        steps=2,
        warm_up=2,
        sides=sides,
        compare_gradients=True,
    )
    bounds = (
        Check("time, separate / shared", checks.seconds(SEPARATE, SHARED), 1.7, form="{:.2f}x"),
        Check("relative difference of gradients", checks.largest("gradient"), 1e-5, at_most=True, form="{:.0e}"),
    )
    title = "training a tiny Qwen3 on lists of 16 behind a common prefix of 130 tokens"
    return Question("prefix", title, setting, bounds, 2, differs="padded_tokens")


def lacks_option(name: str) -> str:
    """Why an option of the trainer cannot be measured; "" if there is such an option."""
    from trainers.options import TrainerConfig

    known = {field.name for field in dataclasses.fields(TrainerConfig)}
    return "" if name in known else f"there is no option trainer.{name}"


def all_questions(folder: str = "") -> dict[str, Question]:
    """The questions by name. `folder`: of BEIR's layout, for those on long natural texts."""
    found: Sequence[Question] = [
        *natural(DOCSTRINGS, ""),
        *natural(FOLDER, folder),
        *quality(),
        *at_the_limit(),
        *other_kinds(),
        cached(),
        repeats(0.1, 2),
        repeats(0.5, 4),
        grpo(),
        prefix(),
    ]
    return {question.name: question for question in found}


def small(question: Question) -> Question:
    """The same question at toy size, for a test of the commands. Its figures mean nothing."""
    setting = question.setting
    words = {"words": (4, 8), "query_words": 4, "data": RANDOM}
    sizes = {"batch_size": min(setting.batch_size, 2), "list_size": min(setting.list_size, 4), "max_length": 64}
    sizes |= {"max_length": setting.max_length} if setting.tiny_decoder else {}
    steps = {"steps": 1, "warm_up": min(setting.warm_up, 1)}
    budget = {"token_budget": setting.token_budget and 64, "quality_steps": setting.quality_steps and 2}
    overrides = tuple(each for each in setting.overrides if not each.startswith("eval."))
    return replace(
        question, setting=replace(setting, **words, **sizes, **steps, **budget, tiny=True, overrides=overrides)
    )

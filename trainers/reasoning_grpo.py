"""GRPO of rerankers that reason before they answer, with TRL's `GRPOTrainer`: options, rewards, prompts, callbacks.

TRL generates the completions and has its own loop, optimizer and checkpoints, so this is not a `Trainer`;
launch/reason.py runs it. TRL is imported only where it is used, because its import takes ten seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.collection import Collection
from data.hashing import stable_hash
from data.sampling.training_lists import TrainingLists
from data.truncation import Truncation, cut_line, limits_of
from engines.distributed import heartbeat, preemption
from engines.distributed.collectives import all_agree
from models.prompts.reasoning_template import ReasoningTemplate
from models.prompts.tokenizer import PromptTokenizer

Reward = Callable[..., list[float | None]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReasoningGRPOConfig:
    """Options of a run. Those of TRL keep TRL's names; `trl` sets any other option of its `GRPOConfig`.

    `batch_size` counts (query, document) prompts per update over all ranks, each with `num_generations` completions.
    """

    max_steps: int = 300
    batch_size: int = 8
    list_size: int = 8
    num_generations: int = 8
    per_device_batch_size: int = 8
    max_completion_length: int = 256
    correctness_weight: float = 1.0
    format_weight: float = 0.5
    learning_rate: float = 1e-6
    weight_decay: float = 0.0
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    beta: float = 0.0
    temperature: float = 1.0
    loss_type: str = "dapo"
    scale_rewards: str = "group"
    num_iterations: int = 1
    epsilon: float = 0.2
    log_every: int = 1
    save_every: int = 50
    trl: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            *("max_steps", "batch_size", "list_size", "per_device_batch_size", "max_completion_length"),
            *("num_iterations", "log_every", "save_every"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_generations < 2:
            raise ValueError(f"trainer.num_generations must be at least 2, got {self.num_generations}")
        for name in ("correctness_weight", "format_weight", "learning_rate", "weight_decay", "beta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trainer.{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.correctness_weight == 0 and self.format_weight == 0:
            raise ValueError("trainer.correctness_weight and format_weight are both 0: nothing is rewarded")
        if not self.temperature > 0:
            raise ValueError(f"trainer.temperature must be above 0, got {self.temperature}")

    def check(self, loss: Any) -> None:
        """Raise ValueError: launch/train.py cannot run this trainer."""
        raise ValueError("trainer=reasoning_grpo uses TRL's trainer: start it with launch/reason.py")

    def arguments(self, folder: Path, *, seed: int, ranks: int, use_cpu: bool, bf16: bool) -> Any:
        """Make TRL's `GRPOConfig`. Raises ValueError if the sizes do not fit or TRL rejects an option."""
        from trl import GRPOConfig

        completions = self.batch_size * self.num_generations
        per_update = self.per_device_batch_size * ranks
        if completions % per_update:
            raise ValueError(
                f"trainer.batch_size={self.batch_size} times num_generations={self.num_generations} completions do not "
                f"divide into per_device_batch_size={self.per_device_batch_size} on {ranks} rank(s)"
            )
        options = {
            "output_dir": str(folder),
            "seed": seed,
            "use_cpu": use_cpu,
            "bf16": bf16,
            "max_steps": self.max_steps,
            "per_device_train_batch_size": self.per_device_batch_size,
            "gradient_accumulation_steps": completions // per_update,
            "num_generations": self.num_generations,
            "max_completion_length": self.max_completion_length,
            "reward_weights": [self.correctness_weight, self.format_weight],
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "warmup_steps": round(self.warmup_ratio * self.max_steps),
            "max_grad_norm": self.max_grad_norm,
            "beta": self.beta,
            "temperature": self.temperature,
            "loss_type": self.loss_type,
            "scale_rewards": self.scale_rewards,
            "num_iterations": self.num_iterations,
            "epsilon": self.epsilon,
            "logging_steps": self.log_every,
            "save_steps": self.save_every,
            "save_total_limit": 2,
            "report_to": [],
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "shuffle_dataset": True,
            "disable_dropout": True,
        }
        try:
            return GRPOConfig(**{**options, **self.trl})
        except (TypeError, ValueError) as error:
            raise ValueError(f"trainer: TRL rejects the options: {' '.join(str(error).split())}") from error


def correctness_reward(template: ReasoningTemplate, tokenizer: Any) -> Reward:
    """A reward in TRL's signature: 1 if the completion has the right format and answer, else 0. `relevant` is a
    column."""

    def correctness(completion_ids: list[list[int]], relevant: list[bool], **_: Any) -> list[float | None]:
        answers = (template.read(text) for text in _texts(completion_ids, tokenizer))
        return [float(answer is right) for answer, right in zip(answers, map(bool, relevant), strict=True)]

    return correctness


def format_reward(template: ReasoningTemplate, tokenizer: Any) -> Reward:
    """A reward in TRL's signature: 1 if the completion closes its reasoning and then gives one of the two answers."""

    def in_format(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [float(template.read(text) is not None) for text in _texts(completion_ids, tokenizer)]

    return in_format


def _texts(completion_ids: list[list[int]], tokenizer: Any) -> Iterator[str]:
    """Decode completions. Special tokens are kept, since they may close the reasoning, except those at the end."""
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    for ids in completion_ids:
        length = len(ids)
        while length and ids[length - 1] in ends:
            length -= 1
        yield tokenizer.decode(ids[:length], skip_special_tokens=False)


def training_prompts(
    collection: Collection, tokenizer: PromptTokenizer, *, list_size: int, options: Any, seed: int, limit: int
) -> list[dict[str, Any]]:
    """TRL's rows {prompt: text, relevant: bool}, at most `limit`: one row per document of the training lists of the
    first epoch. The queries are in random order, and the texts are truncated. They are to be read by
    `tokenizer.reader.tokenizer`, which reads the control tokens of the template alone."""
    lists = TrainingLists(collection, tokenizer, list_size=list_size, seed=seed, options=options)
    order = sorted(range(len(lists)), key=lambda index: stable_hash("reasoning", seed, lists.query_ids[index]))
    rows: list[dict[str, Any]] = []
    cut = Truncation()
    for index in order:
        if len(rows) >= limit:
            break
        example = lists[0, index]
        size = len(example.sequences)
        cut += Truncation.of_rows(example.sequences.truncated, [size], size) or Truncation()
        ids = _rows(example.sequences.features["input_ids"], example.sequences.lengths)
        for row, label in zip(ids, example.labels, strict=True):
            text = tokenizer.reader.tokenizer.decode(row, skip_special_tokens=False)
            rows.append({"prompt": text, "relevant": bool(label > 0)})
    if line := cut_line({"train": cut}, limits_of(tokenizer)):
        logger.warning(line)
    return rows[:limit]


def _rows(ids: Any, lengths: Any) -> Iterator[list[int]]:
    start = 0
    for length in lengths.tolist():
        yield ids[start : start + length].tolist()
        start += length


def make_trl_trainer(
    model: Any,
    arguments: Any,
    rows: list[dict[str, Any]],
    *,
    template: ReasoningTemplate,
    tokenizer: Any,
    prompt_tokenizer: Any,
    log: Callable[[Mapping[str, float], int], None],
) -> Any:
    """Make TRL's `GRPOTrainer`. `prompt_tokenizer` reads the prompts of `rows`, `tokenizer` the completions.
    `log(metrics, step)` gets its metrics, those logged before a resume included. It saves and stops at the step at
    which all ranks know of a preemption."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    class RunCallback(TrainerCallback):
        """Connects TRL's trainer to the heartbeat, the preemption handler and `log`."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for logs in state.log_history:
                log(logs, logs["step"])

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            heartbeat.set_step(state.global_step + 1)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            all_agree(True)
            if preemption.agreed():
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                log(logs, state.global_step)

    class Trainer(GRPOTrainer):
        def _tokenize_prompts(self, prompts: list[str]) -> Any:
            """Tokenise without adding special tokens: the template contains them."""
            return prompt_tokenizer(prompts, add_special_tokens=False)["input_ids"], None, {}

    return Trainer(
        model=model,
        reward_funcs=[correctness_reward(template, tokenizer), format_reward(template, tokenizer)],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[RunCallback()],
    )

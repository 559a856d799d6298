"""GRPO: sample actions (rankings, answers, sets) from the policy given by the scores, and reinforce rewarded ones."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from data.batch import ListBatch
from losses.contracts import LossInputs, Statistics, is_policy, is_sharded, select_inputs, whole_inputs
from trainers.loss_inputs import part_of_lists
from trainers.options import TrainerConfig
from trainers.parts import TrainerParts
from trainers.refresh.solved_lists import Draw, Replaced, SolvedLists, action_seeds
from trainers.trainer import Trainer

STEPS_WITHOUT_GRADIENT = 10  # in a row, before it is said


@dataclass(frozen=True, kw_only=True)
class GRPOTrainerConfig(TrainerConfig):
    """Options of `GRPOTrainer`. `num_iterations`: updates on the actions that are sampled for each batch.

    `refresh_attempts`: with `refresh_every`, how many fresh lists are drawn, one after the other, for a list whose
    rewards are all equal. The first has the same query and no random negatives, the others have other queries.
    """

    # With dropout, the policy that is scored would differ from the one that sampled, and the ratio would not be 1.
    runs_without_dropout: ClassVar[bool] = True

    num_iterations: int = 1
    refresh_attempts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_iterations < 1:
            raise ValueError(f"trainer.num_iterations must be at least 1, got {self.num_iterations}")
        if self.refresh_attempts < 0:
            raise ValueError(f"trainer.refresh_attempts must be at least 0, got {self.refresh_attempts}")
        if self.refresh_every % self.num_iterations:
            raise ValueError(
                f"trainer.refresh_every={self.refresh_every} must be a multiple of trainer.num_iterations="
                f"{self.num_iterations}: lists stay the same while a batch is used"
            )

    @property
    def updates_per_batch(self) -> int:
        return self.num_iterations

    def check(self, loss: Any) -> None:
        if not is_policy(loss):
            raise ValueError(
                f"trainer=grpo needs a policy loss such as loss=plackett_luce_grpo, got {type(loss).__name__} "
                f"(supervised losses go with trainer=ranking)"
            )
        if self.num_iterations > 1 and loss.on_policy_only:
            raise ValueError(
                f"trainer.num_iterations={self.num_iterations}: gradient_estimator={loss.gradient_estimator} "
                "is valid for one update per batch only"
            )
        if self.refresh_every and self.refresh_attempts and not loss.compares_actions:
            raise ValueError(
                f"trainer.refresh_attempts={self.refresh_attempts}: loss {type(loss).__name__} samples no actions, so "
                "no list has equal rewards: set trainer.refresh_attempts=0"
            )

    def build(self, parts: TrainerParts) -> GRPOTrainer:
        return GRPOTrainer(self, parts)


class GRPOTrainer(Trainer):
    """Maximises the expected reward of sampled actions.

    The old policy is given by the model's outputs at the batch's first update, a few floats per document. Only these
    are kept: at each of the `num_iterations` updates the same actions are sampled from them again with the same seeds.
    """

    config: GRPOTrainerConfig
    sharded = True

    def __init__(self, config: GRPOTrainerConfig, parts: TrainerParts):
        super().__init__(config, parts)
        self.old: dict[str, Tensor] | None = None
        self.old_batch: int | None = None  # the number of the batch that `old` belongs to
        self.solved_lists: SolvedLists | None = None
        if config.refresh_every and config.refresh_attempts:
            collator, options = self.gradient_cache.collator, {"attempts": config.refresh_attempts, "seed": self.seed}
            self.solved_lists = SolvedLists(self.engine, collator, parts.loader, **options)
        self.replaced: Replaced | None = None  # in the current batch
        self.steps_without_gradient = 0  # up to now, in a row

    def next_batch(self) -> ListBatch:
        """Load the batch of this step. At its first update, solved lists are replaced."""
        known = self.batches.current
        batch = super().next_batch()
        if self.solved_lists is None or batch is known:
            return batch
        started = time.perf_counter()
        if self.replaced is not None and self.replaced.batch == batch.number == self.old_batch:
            batch = self.solved_lists.repeat(batch, self.replaced)  # a run resumed between its updates
        else:
            batch, self.replaced = self.solved_lists.replace(batch, self.loss_of(batch))
        self.batches.current = batch
        self.batches.wait_s += time.perf_counter() - started
        return batch

    def prefetch(self) -> None:
        """Load the next step's batch ahead. It is planned too, unless its solved lists may be replaced: then another
        batch is trained on, and the exchange of its tokens would be for nothing."""
        if self.solved_lists is None:
            super().prefetch()
        elif self.state.step < self.max_steps:
            self.batches.ahead(self.state.step + 1, self.state.skipped_batches)

    def objective(self, lists: LossInputs, batch: ListBatch) -> tuple[Tensor, Statistics]:
        loss = self.loss_of(batch)
        lists = lists if is_sharded(loss) else whole_inputs(loss, lists)
        share = lists.share
        inputs: dict[str, Any] = select_inputs(loss, lists)
        policy = {"scores": lists.list_scores(), **{name: inputs[name] for name in loss.policy_inputs}}
        if self.old_batch != batch.number:
            self.old_batch = batch.number
            # Of all lists: a run may be resumed on another number of ranks before the batch has had its updates.
            self.old = {name: share.gather(value.detach()) for name, value in policy.items()}
        assert self.old is not None
        own_old = {name: part_of_lists(value, share) for name, value in self.old.items()}
        seeds = action_seeds(self.seed, batch.number, share.own(len(batch.examples)).tolist())
        actions = loss.sample(mask=lists.mask, seeds=seeds, **own_old)
        inputs |= {f"old_{name}": value for name, value in own_old.items()}
        inputs |= {} if share.is_whole else {"share": share}
        value, statistics = loss(policy["scores"], lists.labels, lists.mask, actions=actions, **inputs)
        return value, statistics | self.replaced_statistics()

    def replaced_statistics(self) -> Statistics:
        """The number of lists of the batch that were solved when they were drawn, and of those that were replaced."""
        if self.replaced is None:
            return {}
        counts = {"solved_lists": self.replaced.num_solved, "replaced_lists": len(self.replaced.draws)}
        return {name: torch.tensor(count) for name, count in counts.items()}

    def log(self, statistics: dict[str, Any]) -> None:
        super().log(statistics)
        self.note_equal_rewards(float(statistics.get("frac_reward_zero_std", 0.0)))

    def note_equal_rewards(self, share: float) -> None:
        """Print a warning, once, if all samples of all groups have had the same reward for many logged steps."""
        self.steps_without_gradient = self.steps_without_gradient + 1 if share == 1 else 0
        if self.steps_without_gradient == STEPS_WITHOUT_GRADIENT:
            self.progress.note_once(
                "equal rewards",
                f"warning: for {STEPS_WITHOUT_GRADIENT} steps all samples of each group had the same reward, so "
                "nothing is learned: the policy samples one action only. Start again with a lower "
                "trainer.learning_rate, a higher loss.entropy_coef, or other rewards (loss.pos_weight=auto where few "
                "documents are relevant)",
            )

    def family_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "old": self.old and {name: value.tolist() for name, value in self.old.items()},
            "batch": self.old_batch,
        }
        return state if self.replaced is None else {**state, "replaced": asdict(self.replaced)}

    def load_family_state(self, state: dict[str, Any]) -> None:
        replaced = state.get("replaced")
        self.replaced = replaced and Replaced(**{**replaced, "draws": [Draw(**draw) for draw in replaced["draws"]]})
        old, device = state["old"], self.engine.device
        self.old_batch = state["batch"]
        self.old = old and {name: torch.tensor(value, device=device) for name, value in old.items()}

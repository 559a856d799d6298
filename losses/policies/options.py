"""The options of GRPO that every policy shares, with TRL's names, and the check that each of them has an effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from losses.contracts import Loss
from losses.math.masking import above_zero, at_least, finite, one_of
from losses.policies.advantages import ADVANTAGE_ESTIMATORS
from losses.policies.surrogate import IMPORTANCE_SAMPLING_LEVELS, LOSS_TYPES


@dataclass(frozen=True)
class PolicyOptions(Loss):
    """Options of a policy. Raises ValueError, in one line, for a value or combination without meaning.

    num_generations: G, actions sampled per group (a list, or a document that is judged by itself).
    temperature: of the policy, scores / temperature; cosine scores need 0.01 to 0.05.
    advantage_estimator: "rloo", "none", "group" or "batch" (losses/policies/advantages.py).
    skip_zero_std: leave groups out of the denominators too where all sampled actions have the same reward.
    loss_type: "sum", "grpo", "bnpo", "dapo", "dr_grpo" or "cispo" (`reduce_positions`).
    importance_sampling_level: "token" (each position), "sequence" (GSPO's mean) or "sequence_product".
    epsilon, epsilon_high: clip range of the ratio, [1 - epsilon, 1 + epsilon_high], 0 <= epsilon < 1, epsilon_high
        >= 0, None: epsilon. For
        "cispo", epsilon_high is an absolute cap.
    delta: cap of the ratio in the unclipped branch; None: none.
    beta: weight of the divergence from the reference.
    kl_in: "loss" adds the divergence of each position to the loss; "reward" takes it off the rewards.
    kl_estimator: the policy's exact one, "k2" or "k3" in the loss, "k1" in the reward (as a loss its expected gradient
        is zero).
    use_bias_correction_kl: for k3, times the ratio: the gradient of the reverse, not the forward divergence.
    entropy_coef: weight of the mean entropy of a position, subtracted from the loss.

    Where an action has one position, all loss types but "cispo" are the same, and so are the levels.
    """

    contract: ClassVar[str] = "list"
    samples_actions: ClassVar[bool] = True
    kl_estimators: ClassVar[Mapping[str, Sequence[str]]] = {"loss": ("exact", "k2", "k3"), "reward": ("k1",)}

    num_generations: int = 64
    temperature: float = 1.0
    advantage_estimator: str = "rloo"
    skip_zero_std: bool = False
    loss_type: str = "sum"
    importance_sampling_level: str = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    kl_in: str = "loss"
    kl_estimator: str = "exact"
    use_bias_correction_kl: bool = True
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        at_least("num_generations", self.num_generations, 2)
        above_zero("temperature", self.temperature)
        at_least("epsilon", self.epsilon, 0)
        if self.epsilon >= 1:
            raise ValueError(
                f"epsilon must be below 1, got {self.epsilon}: the ratio is clipped at 1 - epsilon, above 0"
            )
        if self.epsilon_high is not None:
            at_least("epsilon_high", self.epsilon_high, 0)
        if self.delta is not None:
            above_zero("delta", self.delta)
        at_least("beta", self.beta, 0)
        finite("entropy_coef", self.entropy_coef)
        one_of("advantage_estimator", self.advantage_estimator, ADVANTAGE_ESTIMATORS)
        one_of("loss_type", self.loss_type, LOSS_TYPES)
        one_of("importance_sampling_level", self.importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS)
        one_of("kl_in", self.kl_in, tuple(self.kl_estimators))
        one_of(f"with kl_in={self.kl_in}, kl_estimator", self.kl_estimator, self.kl_estimators[self.kl_in])
        self._check_kl()
        if self.loss_type == "cispo":
            if self.epsilon_high is None:
                raise ValueError("loss_type=cispo needs epsilon_high, an absolute cap on the ratio (such as 5)")
            self._refuse_unused(("epsilon", "delta"), "loss_type=cispo")

    def _check_kl(self) -> None:
        if self.beta == 0:
            self._refuse_unused(("kl_in", "kl_estimator", "use_bias_correction_kl"), "beta=0 (no divergence)")
        elif self.kl_estimator != "k3":
            self._refuse_unused(("use_bias_correction_kl",), f"kl_estimator={self.kl_estimator}")

    def _refuse_unused(self, names: Sequence[str], setting: str) -> None:
        """ValueError where one of the options, which `setting` leaves without effect, is not at its default."""
        defaults = {option.name: option.default for option in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with {setting}; leave it at {defaults[name]}"
                )

    @property
    def policy_inputs(self) -> tuple[str, ...]:
        """Fields of `LossInputs` that the policy is made of beside the scores."""
        return ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The policy's own fields, and those of the reference where the divergence from it has a weight."""
        reference = ("scores", *self.policy_inputs) if self.beta > 0 else ()
        return (*self.policy_inputs, *(f"reference_{name}" for name in reference))

    @property
    def on_policy_only(self) -> bool:
        """The estimate holds only for actions sampled from the very scores given: num_iterations must be 1."""
        return False

    @property
    def saturates(self) -> bool:
        """A policy that never samples the better action learns nothing of it."""
        return True

    @property
    def differentiable(self) -> bool:
        """Whether the value is the integral of the gradient."""
        return self.loss_type != "cispo" and not self.on_policy_only

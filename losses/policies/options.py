"""The options of GRPO that all policies share, with TRL's names, and the check that every option set has an effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from losses.contracts import Loss
from losses.math.checks import check_at_least, check_finite, check_one_of, check_positive
from losses.policies.advantages import ADVANTAGE_ESTIMATORS
from losses.policies.surrogate import IMPORTANCE_SAMPLING_LEVELS, LOSS_TYPES


@dataclass(frozen=True)
class PolicyOptions(Loss):
    """The options of a policy. Raises ValueError, in one line, if a value or a combination of values has no meaning.

    num_generations: G, the number of actions sampled per group (a list, or one document if each is judged alone).
    temperature: the scores are divided by it to give the policy; cosine scores need 0.01 to 0.05.
    advantage_estimator: "rloo", "none", "group" or "batch" (losses/policies/advantages.py).
    skip_zero_std: if all actions of a group have the same reward, leave the group out of the denominators too.
    loss_type: "sum", "grpo", "bnpo", "dapo", "dr_grpo" or "cispo" (`reduce_positions`).
    importance_sampling_level: "token" (each position), "sequence" (GSPO's mean) or "sequence_product".
    epsilon, epsilon_high: the clip range of the ratio is [1 - epsilon, 1 + epsilon_high], with 0 <= epsilon < 1 and
        epsilon_high >= 0; None: epsilon. For "cispo", epsilon_high is an absolute cap.
    delta: the cap of the ratio in the unclipped branch; None: no cap.
    beta: the weight of the divergence from the reference.
    kl_in: "loss" adds the divergence of each position to the loss; "reward" subtracts it from the rewards.
    kl_estimator: in the loss, "exact" (a policy may have another name for it), "k2" or "k3"; in the reward, "k1" (as a
        loss its expected gradient is zero).
    use_bias_correction_kl: multiply k3 by the ratio, which gives the gradient of the reverse, not the forward KL.
    entropy_coef: the weight of the mean entropy per position, subtracted from the loss.

    If an action has one position, all loss types but "cispo" are the same, and all importance sampling levels too.
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
        check_at_least("num_generations", self.num_generations, 2)
        check_positive("temperature", self.temperature)
        check_at_least("epsilon", self.epsilon, 0)
        if self.epsilon >= 1:
            raise ValueError(
                f"epsilon must be below 1, got {self.epsilon}: the ratio is clipped at 1 - epsilon, above 0"
            )
        if self.epsilon_high is not None:
            check_at_least("epsilon_high", self.epsilon_high, 0)
        if self.delta is not None:
            check_positive("delta", self.delta)
        check_at_least("beta", self.beta, 0)
        check_finite("entropy_coef", self.entropy_coef)
        check_one_of("advantage_estimator", self.advantage_estimator, ADVANTAGE_ESTIMATORS)
        check_one_of("loss_type", self.loss_type, LOSS_TYPES)
        check_one_of("importance_sampling_level", self.importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS)
        check_one_of("kl_in", self.kl_in, tuple(self.kl_estimators))
        check_one_of(f"with kl_in={self.kl_in}, kl_estimator", self.kl_estimator, self.kl_estimators[self.kl_in])
        self._check_kl()
        if self.loss_type == "cispo":
            if self.epsilon_high is None:
                raise ValueError("loss_type=cispo needs epsilon_high, an absolute cap on the ratio (such as 5)")
            self._reject_unused(("epsilon", "delta"), "loss_type=cispo")

    def _check_kl(self) -> None:
        if self.beta == 0:
            self._reject_unused(("kl_in", "kl_estimator", "use_bias_correction_kl"), "beta=0 (no divergence)")
        elif self.kl_estimator != "k3":
            self._reject_unused(("use_bias_correction_kl",), f"kl_estimator={self.kl_estimator}")

    def _reject_unused(self, names: Sequence[str], setting: str) -> None:
        """Raise ValueError if one of the options, which have no effect with `setting`, is not at its default."""
        defaults = {option.name: option.default for option in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with {setting}; leave it at {defaults[name]}"
                )

    @property
    def policy_inputs(self) -> tuple[str, ...]:
        """The fields of `LossInputs` that define the policy, in addition to the scores."""
        return ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The policy's inputs, and the reference's if beta is above 0."""
        reference = ("scores", *self.policy_inputs) if self.beta > 0 else ()
        return (*self.policy_inputs, *(f"reference_{name}" for name in reference))

    @property
    def on_policy_only(self) -> bool:
        """Whether actions must be sampled from the same scores that the loss is given: num_iterations must be 1."""
        return False

    @property
    def compares_actions(self) -> bool:
        """Whether it learns from differences between the rewards of sampled actions."""
        return True

    @property
    def saturates(self) -> bool:
        """True: a policy learns nothing about a better action that it never samples."""
        return True

    @property
    def differentiable(self) -> bool:
        """Whether the gradient is the derivative of the value."""
        return self.loss_type != "cispo" and not self.on_policy_only

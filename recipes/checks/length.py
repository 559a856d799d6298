"""Check the length of training once the data are read, before weights are loaded."""

from __future__ import annotations

from data.collection import Collection
from data.sampling.mixture import Mixture, batches_per_epoch
from recipes.checks.refresh import check_refresh_is_reached
from recipes.run_config import RunConfig


def check_length(settings: RunConfig, data: Collection | Mixture, *, has_dev: bool) -> None:
    """Raise ValueError if early stopping has nothing to count, or if an option has no effect in the epochs that
    `trainer.max_epochs` gives. `data`: what is trained on."""
    options = settings.trainer
    if options.early_stopping_patience is not None and not has_dev:
        raise ValueError(
            f"trainer.early_stopping_patience={options.early_stopping_patience} counts evaluations on dev, and there "
            "is no dev split: give the data one (data.dev_fraction=0.1), choose other sets (data@dev_suite=suite), or "
            "set it to null"
        )
    if options.max_epochs is not None:
        num_steps = options.num_steps(batches_per_epoch(data, options.batch_size))
        check_refresh_is_reached(options, num_steps)

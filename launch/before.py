"""The starting model's test scores, made once for all runs of a sweep that start from the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from data.collection import Collection
from data.mixture import Mixture
from launch.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
WHAT_MAKES_SCORES = ("data", "engines", "evaluation", "models")  # whose sources are edited in place


def before_file(settings: RunConfig, config: DictConfig, collection: Collection | Mixture, model: nn.Module) -> Path:
    """Where those scores are kept, named after the weights, data, options and code that they come from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for folder in WHAT_MAKES_SCORES:
        for source in sorted((ROOT / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    nodes = [OmegaConf.to_container(node, resolve=True) for node in (config.eval, config.model, config.engine)]
    digest.update(f"{collection.fingerprint} {nodes}".encode())
    return Path(settings.output_dir) / ".before" / f"{digest.hexdigest()}.run"

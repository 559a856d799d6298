"""Where the code of this project lies: the one place that names its packages and finds their root."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of a clone, or the site-packages of an installed wheel
CONF = ROOT / "conf"
PACKAGES = (  # from top to bottom: a package imports those below it only (docs/architecture.md)
    "launch",
    "recipes",
    "runs",
    "trainers",
    "evaluation",
    "inference",
    "models",
    "data",
    "engines",
    "losses",
)


def from_package_down(name: str) -> tuple[str, ...]:
    """The package of that name and all below it."""
    return PACKAGES[PACKAGES.index(name) :]


def hash_sources(packages: Sequence[str]) -> str:
    """A hash of every Python file of these packages, which people edit in place."""
    digest = hashlib.blake2b(digest_size=16)
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()

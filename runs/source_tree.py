"""The location of this project's code. Its packages and their root are named only here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the root of a clone, or the site-packages of an installed wheel
CONF = ROOT / "conf"
PACKAGES = (  # from top to bottom: a package imports only those below it (docs/architecture.md)
    "launch",
    "plackett",
    "recipes",
    "runs",
    "trainers",
    "evaluation",
    "inference",
    "models",
    "data",
    "engines",
    "losses",
    "tensors",
)


def from_package_down(name: str) -> tuple[str, ...]:
    """The package of that name and all below it."""
    return PACKAGES[PACKAGES.index(name) :]


def hash_sources(packages: Sequence[str]) -> str:
    """A hash of all Python files of these packages: users may edit them in place."""
    digest = hashlib.blake2b(digest_size=16)
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()

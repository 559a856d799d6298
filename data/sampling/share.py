"""A share of the training queries, for a search of settings or a first try."""

from __future__ import annotations

import logging
from dataclasses import replace

from data.collection import Collection, content_hash
from data.hashing import stable_hash

logger = logging.getLogger(__name__)


def with_training_share(collection: Collection, share: float, seed: int) -> Collection:
    """`collection` with `share` (above 0, at most 1) of its training queries, at least one; the same object for 1.

    Those whose hash of seed and id is lowest are taken: they are the same on every rank, and a smaller share is a part
    of a larger one. Documents, dev and test stay. One line says how many are left.
    """
    if share == 1 or "train" not in collection.splits:
        return collection
    train = collection.splits["train"]
    order = sorted(train.queries, key=lambda query: stable_hash("share", seed, query))
    number = max(round(share * len(order)), 1)
    split = train.without(set(order[number:]))
    logger.warning("%s: train_share=%g: %d of %d training queries", collection.name, share, number, len(order))
    fingerprint = content_hash([collection.fingerprint, *split.queries])
    return replace(
        collection, splits={**collection.splits, "train": split}, fingerprint=fingerprint, whole=collection.fingerprint
    )

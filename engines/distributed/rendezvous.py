"""A store that no earlier attempt has written to."""

from __future__ import annotations

import json
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from engines.distributed import preemption

POLL_S = 0.1


def fresh_store(store: dist.Store, rank: int, world_size: int, timeout_s: float) -> dist.Store:
    """A part of `store` that is new and the same on all ranks. Raises ValueError naming the ranks that do not come.

    torchrun keeps its store when it restarts the ranks (pytorch issues 135712 and 167288), so that those of the second
    attempt would connect to the addresses of the first. Its count of restarts tells attempts apart on one node, but
    differs between nodes once one of them has been started anew. So every rank says hello with a token of its own,
    rank 0 repeats them beside the name of this attempt, and a rank believes the name that stands beside its token.
    """
    if world_size == 1:
        return dist.PrefixStore(secrets.token_hex(8), store)
    deadline = time.monotonic() + timeout_s
    name = _lead(store, world_size, deadline) if rank == 0 else _follow(store, rank, deadline)
    fresh = dist.PrefixStore(name, store)
    fresh.set_timeout(timedelta(seconds=timeout_s))
    return fresh


def _lead(store: dist.Store, world_size: int, deadline: float) -> str:
    """Rank 0: offer a name until all others have taken it."""
    name, others, missing = secrets.token_hex(8), range(1, world_size), list(range(1, world_size))
    while missing:
        _heed_signals()
        hellos = [f"hello/{other}" for other in others if store.check([f"hello/{other}"])]
        tokens = dict(zip(hellos, map(bytes.decode, store.multi_get(hellos)), strict=True)) if hellos else {}
        store.set("attempt", json.dumps([name, tokens]))
        missing = [other for other in missing if not store.check([f"{name}/taken/{other}"])]
        if missing and time.monotonic() > deadline:
            raise _absent(f"{len(missing)} of {world_size} ranks: {', '.join(map(str, missing[:10]))}")
        time.sleep(POLL_S if missing else 0)
    return name


def _follow(store: dist.Store, rank: int, deadline: float) -> str:
    hello, token = f"hello/{rank}", secrets.token_hex(8)
    store.set(hello, token)
    while time.monotonic() < deadline:
        _heed_signals()
        if store.check(["attempt"]):
            name, tokens = json.loads(store.get("attempt"))
            if tokens.get(hello) == token:
                store.set(f"{name}/taken/{rank}", "1")
                return name
        time.sleep(POLL_S)
    raise _absent("rank 0")


def _heed_signals() -> None:
    if preemption.requested():  # nobody waits for this rank yet, who would have to be told first
        raise preemption.Preempted("while the ranks met")


def _absent(who: str) -> ValueError:
    return ValueError(f"not all ranks came within timeout_s: missing {who}. Start all nodes, or raise timeout_s")

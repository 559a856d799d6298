"""The rendezvous of the ranks in a store that no earlier attempt has written to."""

from __future__ import annotations

import json
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from engines.distributed import preemption

POLL_S = 0.1


def fresh_store(store: dist.Store, rank: int, world_size: int, timeout_s: float) -> dist.Store:
    """A part of `store` that is new and the same on all ranks. Raises ValueError naming the ranks that are missing.

    torchrun keeps its store when it restarts the ranks (pytorch issues 135712 and 167288). Without a new part, the
    ranks of the second attempt would connect to the addresses of the first. torchrun's restart count distinguishes the
    attempts on one node, but it differs between nodes once one of them has been started again. So every rank writes a
    random token, rank 0 publishes a name for this attempt together with the tokens, and a rank accepts the name only if
    its own token is among them.
    """
    if world_size == 1:
        return dist.PrefixStore(secrets.token_hex(8), store)
    deadline = time.monotonic() + timeout_s
    name = _offer_name(store, world_size, deadline) if rank == 0 else _accept_name(store, rank, deadline)
    fresh = dist.PrefixStore(name, store)
    fresh.set_timeout(timedelta(seconds=timeout_s))
    return fresh


def _offer_name(store: dist.Store, world_size: int, deadline: float) -> str:
    """Publish a name for this attempt until all other ranks have accepted it. Called on rank 0."""
    name, others, missing = secrets.token_hex(8), range(1, world_size), list(range(1, world_size))
    while missing:
        _raise_if_signalled()
        hellos = [f"hello/{other}" for other in others if store.check([f"hello/{other}"])]
        tokens = dict(zip(hellos, map(bytes.decode, store.multi_get(hellos)), strict=True)) if hellos else {}
        store.set("attempt", json.dumps([name, tokens]))
        missing = [other for other in missing if not store.check([f"{name}/taken/{other}"])]
        if missing and time.monotonic() > deadline:
            raise _missing_error(f"{len(missing)} of {world_size} ranks: {', '.join(map(str, missing[:10]))}")
        time.sleep(POLL_S if missing else 0)
    return name


def _accept_name(store: dist.Store, rank: int, deadline: float) -> str:
    """Wait for the name of this attempt. Called on every rank but 0."""
    hello, token = f"hello/{rank}", secrets.token_hex(8)
    store.set(hello, token)
    while time.monotonic() < deadline:
        _raise_if_signalled()
        if store.check(["attempt"]):
            name, tokens = json.loads(store.get("attempt"))
            if tokens.get(hello) == token:
                store.set(f"{name}/taken/{rank}", "1")
                return name
        time.sleep(POLL_S)
    raise _missing_error("rank 0")


def _raise_if_signalled() -> None:
    if preemption.requested():  # allowed here: no other rank waits in a collective yet
        raise preemption.Preempted("while the ranks connected")


def _missing_error(ranks: str) -> ValueError:
    return ValueError(f"not all ranks joined within timeout_s: missing {ranks}. Start all nodes, or raise timeout_s")

"""Measure sums of gradients over two nodes of two ranks each, in one collective and by node (`engine.by_node`).

    python benchmarks/by_node.py --gbit 1          # as root, on Linux: two network namespaces that a cable connects

The nodes are namespaces on this machine. Their cable carries `--gbit` in each direction; ranks of a node reach each
other through memory. Printed are the seconds of a sum, and the bytes that a node receives over the cable.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NODES = ("plackett-a", "plackett-b")
CABLE = ("plk0", "plk1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
RANKS_PER_NODE = 2
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gbit", type=float, default=1.0, help="per second, of the cable")
    parser.add_argument("--megabytes", type=float, default=90.0, help="of gradients: 90 are those of MiniLM")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(arguments.megabytes)
        return
    try:
        connect(arguments.gbit)
        processes = [start(number, arguments.megabytes) for number in range(len(NODES))]
        statuses = [process.wait() for process in processes]
        if any(statuses):
            raise SystemExit("error: a rank failed; its lines are above")
    finally:
        for node in NODES:
            run("ip", "netns", "del", node, check=False)


def connect(gbit: float) -> None:
    """Make the namespaces and the cable between them."""
    for node in NODES:
        run("ip", "netns", "add", node)
    run("ip", "link", "add", CABLE[0], "netns", NODES[0], "type", "veth", "peer", "name", CABLE[1], "netns", NODES[1])
    for node, cable, address in zip(NODES, CABLE, ADDRESSES, strict=True):
        inside = ["ip", "netns", "exec", node]
        run(*inside, "ip", "addr", "add", f"{address}/24", "dev", cable)
        for device in ("lo", cable):
            run(*inside, "ip", "link", "set", device, "up")
        rate = ["rate", f"{gbit}gbit", "burst", "256kb", "latency", "50ms"]
        run(*inside, "tc", "qdisc", "add", "dev", cable, "root", "tbf", *rate)


def run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL)


def start(number: int, megabytes: float) -> subprocess.Popen[bytes]:
    """Start torchrun on a node."""
    launcher = ["ip", "netns", "exec", NODES[number], sys.executable, "-m", "torch.distributed.run"]
    nodes = ["--nnodes", str(len(NODES)), "--node_rank", str(number), "--nproc_per_node", str(RANKS_PER_NODE)]
    meeting = ["--master_addr", ADDRESSES[0], "--master_port", "29400"]
    worker = [str(Path(__file__).resolve()), "--worker", "--megabytes", str(megabytes)]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE[number]}
    return subprocess.Popen([*launcher, *nodes, *meeting, *worker], env={**os.environ, **paths})


def measure(megabytes: float) -> None:
    """Time both sums on this rank; rank 0 prints."""
    import torch
    import torch.distributed as dist

    from engines.distributed import process_group
    from engines.distributed.nodes import NodeSum

    process_group.start(timeout_s=300)
    nodes, values = NodeSum(), torch.randn(int(megabytes * 1e6) // 16 * 4)
    sums = {
        "in one collective": lambda: dist.all_reduce(values),
        "by node": lambda: nodes.start(values)(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sums}
    received: dict[str, list[float]] = {name: [] for name in sums}
    for _ in range(ROUNDS + 1):
        for name, total in sums.items():
            process_group.barrier()
            begin, before = time.perf_counter(), received_bytes()
            total()
            process_group.barrier()
            seconds[name].append(time.perf_counter() - begin)
            received[name].append(received_bytes() - before)
            values.div_(4)
    if process_group.is_main():
        for name in sums:
            middle, moved = statistics.median(seconds[name][1:]), statistics.median(received[name][1:])
            print(f"{name}: {middle:.3f} s, {moved / 1e6:.1f} MB over the cable to a node", flush=True)
    process_group.stop()


def received_bytes() -> int:
    """The bytes that this node has received over the cable."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() in CABLE:
            return int(numbers.split()[0])
    raise OSError("/proc/net/dev does not have the cable")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()

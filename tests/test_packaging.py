"""The wheel: it holds the packages and conf/, and runs without the repository."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from launch.cli.compose import compose
from runs.source_tree import CONF, PACKAGES, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built offline from a copy, so that no build/ is left in the repository."""
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    if missing := {"pip", "setuptools"} - installed:
        pytest.skip(f"{' and '.join(sorted(missing))} not installed: a wheel cannot be built offline")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in (*PACKAGES, "conf", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(output)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    [file] = output.glob("plackett-*.whl")
    return file


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_holds_the_packages_and_every_file_of_the_configuration(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"conf/{file.relative_to(CONF)}" for file in CONF.rglob("*.yaml")} <= names
    modules = {str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert modules <= names
    assert "evaluation/known_models/published.yaml" in names
    assert "conf/__init__.py" not in names
    others = {name.partition("/")[0] for name in names} - {*PACKAGES, "conf"}
    assert others == {f"plackett-{version_of_setup()}.dist-info"}


def test_it_runs_from_an_empty_folder(unpacked, tmp_path):
    """Its own conf/ is read, in which the seed is another one than the repository's."""
    root = unpacked / "conf" / "train.yaml"
    root.write_text(root.read_text().replace("seed: 42", "seed: 43"))
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "launch.train", "--cfg", "job", "+exp=reranker_grpo"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert yaml.safe_load(shown.stdout) == {**compose(["+exp=reranker_grpo"]), "seed": 43}
    assert list(tmp_path.iterdir()) == []


def test_the_citation_names_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version_of_setup()


def version_of_setup() -> str:
    match = re.search(r'^    version="([^"]+)"', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert match
    return match.group(1)


def test_continuous_integration_runs_what_a_contributor_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_hooks_before_a_commit_are_the_checks_of_the_makefile():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["name"] for hook in repository["hooks"]}
    checks = re.findall(r"^\t\$\(BIN\)/((?:ruff|mypy)[^\n]*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert hooks == {check.removesuffix(" .").removesuffix(" --check") for check in checks}


def test_folders_of_the_user_hide_no_package(tmp_path):
    """A script in a project that has a folder data/ of its own, and an editable install."""
    (tmp_path / "data").mkdir()
    (tmp_path / "models" / "loading").mkdir(parents=True)
    (tmp_path / "script.py").write_text("import data.collection, models.loading.resolve\nprint('imported')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout == "imported\n", done.stderr

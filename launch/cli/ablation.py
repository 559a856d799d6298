"""Read the command line of launch/ablate.py: its own settings, those of the runs, and the configurations they make."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from launch.cli.compose import compose, instantiate
from launch.cli.overrides import EXPERIMENTS, config_folders, groups, parse_override
from recipes.ablate.config import AblateConfig
from recipes.ablate.configurations import Configuration, configurations_of, key_of, merged
from recipes.ablate.run import Ablation
from recipes.ablate.search import example_point, import_optuna, parse_range
from runs.redaction import is_secret
from runs.resume import run_folder
from runs.source_tree import CONF

FILES = "ablation"  # the folder of conf/ with whole ablations
OF_THE_ABLATION = {
    "seed": "seeds=[1,2,3] names the seeds of all runs",
    "resume": "finished runs are kept and others resumed; run_name=NAME starts another ablation",
    "run_name": "it names the folder of all runs, on the command line or beside settings in a file",
    "output_dir": "it is the place of all runs, on the command line or beside settings in a file",
}
Check = Callable[[Any], object]  # raises ValueError if the settings of a run cannot be trained


def read_ablation(overrides: Sequence[str], config_dir: str | None, check: Check) -> Ablation:
    """The ablation of a command line. Every configuration is composed, built and checked.

    Raises ValueError if anything is wrong: with one line, or after one line for each wrong configuration has been
    printed.
    """
    options, typed = read_options(overrides, config_dir)
    common = tuple(merged(options.settings, typed))
    _check_keys(options, common, typed)

    @cache
    def tree_of(settings: tuple[str, ...]) -> dict[str, Any]:
        return compose(settings, "train", config_dir)

    space = {key: parse_range(key, text, _read_list) for key, text in options.search.items()}
    if space:
        import_optuna()
        configurations = [Configuration.of("search", example_point(space))]
    else:
        configurations = configurations_of(options.experiments, options.grid)
    _check_all(configurations, common, options.all_seeds[0], tree_of, check)
    if options.baseline is not None:
        options = _with_baseline(options, configurations)
    name = options.run_name or _default_name(overrides, common, "search" if space else "ablation")
    return Ablation(
        options=options,
        folder=run_folder({"output_dir": options.output_dir, "run_name": name}),
        common=common,
        configurations=() if space else tuple(configurations),
        space=space,
        compose=lambda settings: tree_of(tuple(settings)),
        build_run=lambda settings: instantiate(tree_of(tuple(settings))),
        example=configurations[0],
        config_dir=config_dir,
    )


def _check_keys(options: AblateConfig, common: Sequence[str], typed: Sequence[str]) -> None:
    """Raise ValueError if a setting is one that no run has of its own, a secret that is varied, or set twice."""
    varied = [*options.grid, *options.search]
    in_experiments = [key_of(setting) for settings in options.experiments.values() for setting in settings]
    for key in (*map(key_of, common), *varied, *in_experiments):
        if key in OF_THE_ABLATION:
            raise ValueError(f"{key} is not a setting of an ablation's runs: {OF_THE_ABLATION[key]}")
    for key in varied:
        if key in map(key_of, common):
            where = "" if key in map(key_of, typed) else " by `settings` of the file"
            raise ValueError(f"{key} is set for all runs{where} and varied: leave one out")
        if is_secret(key):
            raise ValueError(f"{key} is a secret, and values that are varied name the runs: set it for all runs")


def read_options(overrides: Sequence[str], config_dir: str | None) -> tuple[AblateConfig, list[str]]:
    """The ablation's own settings, from the command line and its file, and the settings of all runs that are typed."""
    folders = config_folders(config_dir)
    own_keys = set(yaml.safe_load((CONF / "ablate.yaml").read_text(encoding="utf-8"))) | {FILES}
    varied: dict[str, dict[str, Any]] = {"grid": {}, "search": {}, "experiments": {}}
    files = [override for override in overrides if key_of(override) == FILES]
    if len(files) > 1:
        raise ValueError(f"{' and '.join(files)} are two ablations: start a command for each")
    own, typed, baseline = [], [], []
    for override in overrides:
        key = key_of(override)
        kind, _, varied_key = key.partition(".")
        if kind in varied and varied_key:
            varied[kind][varied_key] = _varied(kind, override, folders)
        elif key == "baseline":  # a name with "=", which Hydra would not read
            baseline.append(override.partition("=")[2].strip("'\""))
        elif kind in own_keys:
            own.append(f"+{override}" if override.startswith(f"{FILES}=") else override)
        else:
            _check_typed(override, own_keys, folders)
            typed.append(override)
    tree = compose(own, "ablate", config_dir)
    for kind, values in varied.items():
        in_file = tree[kind] if kind == "experiments" else flat(tree[kind])
        tree[kind] = {key: value for key, value in {**in_file, **values}.items() if value is not None}
    for name in baseline:
        tree["baseline"] = name
    if tree["run_name"] == "ablate" and "run_name" not in map(key_of, own):
        tree["run_name"] = None  # compose has filled it in
    options: AblateConfig = instantiate(tree)
    return options, typed


def flat(node: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The keys and values of `grid` or `search` in a file, where keys may be nested or dotted."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        inner = f"{key}.{name}".lstrip(".")
        found |= flat(value, inner) if isinstance(value, Mapping) else {inner: value}
    return found


def _varied(kind: str, override: str, folders: Sequence[Path]) -> Any:
    """The values of grid.KEY=[A,B], the text of search.KEY=RANGE, or the settings of experiments.NAME=[KEY=VALUE,...];
    None for null, which leaves out that of a file."""
    text = override.partition("=")[2].strip()
    if text == "null":
        return None
    if kind == "search":
        return text.strip("'\"")
    if kind == "experiments":
        return split_settings(text)
    parsed = parse_override(override.lstrip("+").removeprefix("grid."), folders)
    return text if parsed.is_sweep_override() else parsed.value()  # A,B: refused by the words that were typed


def split_settings(text: str) -> list[str]:
    """The settings of "[KEY=VALUE,KEY=VALUE]", which Hydra would not read: at its commas outside brackets and quotes.
    Quotes around a whole setting, as in JSON, are taken off.

    >>> split_settings("[loss=bce, eval.metrics=[MAP,MRR@10], data.path='a,b', 'stages=[grpo]']")
    ['loss=bce', 'eval.metrics=[MAP,MRR@10]', "data.path='a,b'", 'stages=[grpo]']
    """
    found, depth, quote = [""], 0, ""
    for sign in text.strip().removeprefix("[").removesuffix("]"):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        depth += 0 if quote else (sign in "[{(") - (sign in ")}]")
        if sign == "," and depth == 0 and not quote:
            found.append("")
        else:
            found[-1] += sign
    settings = [setting.strip() for setting in found if setting.strip()]
    return [each[1:-1] if each[0] in "'\"" and each.endswith(each[0]) else each for each in settings]


def _read_list(text: str) -> list[Any]:
    value: Any = parse_override(f"x={text}", (CONF,)).value()
    return list(value)


def _check_typed(override: str, own_keys: set[str], folders: Sequence[Path]) -> None:
    """Raise ValueError if a setting of the runs is misspelt, and the name of one of the ablation is meant."""
    root = key_of(override).partition(".")[0].partition("@")[0]
    known = {*yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8")), *groups(folders)}
    near = difflib.get_close_matches(root, own_keys - {"_target_", "defaults", "hydra"}, n=1, cutoff=0.7)
    if root not in known and near:
        raise ValueError(f"{root} is not an option: did you mean {near[0]}?")
    parse_override(override, folders)


def _check_all(
    configurations: Sequence[Configuration],
    common: Sequence[str],
    seed: int,
    tree_of: Callable[[tuple[str, ...]], dict[str, Any]],
    check: Check,
) -> None:
    """Raise ValueError, after a line for each mistake, if a configuration cannot be trained or equals another one."""
    mistakes: dict[str, list[str]] = {}  # message -> the configurations
    known: list[tuple[Configuration, Mapping[str, Any]]] = []
    warnings = _SaidOnce()
    for configuration in configurations:
        try:
            tree = tree_of(tuple(merged(common, configuration.overrides)))
            with warnings:
                check(instantiate({**tree, "seed": seed}))
            if twin := next((other for other, settings in known if settings == tree), None):
                raise ValueError(f"its settings are those of {twin.name}: leave one out")
            known.append((configuration, tree))
        except (ValueError, OSError) as error:
            mistakes.setdefault(" ".join(str(error).split()), []).append(configuration.name)
    if not mistakes:
        return
    for line in _lines(mistakes, len(configurations)):
        print(f"error: {line}", file=sys.stderr)
    number = sum(map(len, mistakes.values()))
    raise ValueError(f"{number} of {len(configurations)} configurations cannot be trained: nothing was started")


class _SaidOnce(logging.Filter):
    """Within it, a warning that was said of one configuration is not said of others."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        is_new = record.getMessage() not in self._said
        self._said.add(record.getMessage())
        return is_new

    def __enter__(self) -> None:
        if logging.lastResort is not None:
            logging.lastResort.addFilter(self)

    def __exit__(self, *error: object) -> None:
        if logging.lastResort is not None:
            logging.lastResort.removeFilter(self)


def _lines(mistakes: Mapping[str, Sequence[str]], total: int) -> Iterator[str]:
    for message, names in mistakes.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield message if len(names) == total > 1 else f"{names[0]}{others}: {message}"


def _with_baseline(options: AblateConfig, configurations: Sequence[Configuration]) -> AblateConfig:
    """The options with the whole name of the baseline, which may be given as the beginning of its runs' names."""
    found = [each.name for each in configurations if options.baseline in (each.name, each.folder)]
    if not found:
        names = ", ".join(each.name for each in configurations)
        raise ValueError(f"baseline={options.baseline} is not a configuration: valid: {names}")
    return replace(options, baseline=found[0])


def _default_name(overrides: Sequence[str], common: Sequence[str], kind: str) -> str:
    """The name of the ablation's file, else ablation_NAME or search_NAME of the experiment."""
    chosen = {key_of(setting): setting.partition("=")[2] for setting in (*common, *overrides)}
    name = chosen.get(FILES) or f"{kind}_{chosen.get(EXPERIMENTS, 'train')}"
    return name.replace("/", "-")

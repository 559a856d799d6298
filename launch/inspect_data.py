"""Inspect a data set before anything is trained: what it is read as, what is wrong with it, the losses that fit.

  python launch/inspect_data.py PATH                                        a file, a folder (BEIR's too), a glob
  python launch/inspect_data.py PATH data=documents                         a folder of texts, HTML, PDF, source code
  python launch/inspect_data.py FILE.csv data.columns.query=title           name the columns that are not recognised
  python launch/inspect_data.py FILE.jsonl "data.ignore=[language]"         leave columns out
  python launch/inspect_data.py FILE.jsonl trainer.list_size=2              with training lists of another length
  python launch/inspect_data.py FILE.jsonl loss=lambda_rank                 whether that loss fits
  python launch/inspect_data.py PATH model=bi_encoder model.name_or_path=FOLDER    in the tokens of that model
  python launch/inspect_data.py PATH --json                                 for another program
  python launch/inspect_data.py PATH --html data.html                       a page with pictures

An error says that training would fail, and the exit status is 1; a warning, that its result would suffer. Of large data
a part is read, and the report says which (--rows).
"""

from __future__ import annotations

try:
    import argparse
    import json
    import re
    from collections.abc import Mapping, Sequence
    from dataclasses import replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Any

    from launch.cli.arguments import Parser, run_command
    from launch.cli.compose import compose, instantiate
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from data.inspection.report import Inspection
    from data.inspection.tokens import CountingTokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    page = None if options.html is None else Path(options.html).expanduser()
    check_page(page)
    inspection = inspect_path(options.path, options.settings, options.rows)
    if options.json:
        print(json.dumps(inspection.as_json(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(inspection.lines()))
    if page is not None:
        from runs.report.data_page import write_data_page

        write_data_page(inspection, page)
    if inspection.fails:
        raise SystemExit(1)


def check_page(page: Path | None) -> None:
    """Raise ValueError, before the time is spent, if the page cannot be written."""
    if page is None:
        return
    if not page.parent.is_dir():
        raise ValueError(f"--html {page}: there is no folder {page.parent}: make it, or name another file")
    if page.is_dir():
        raise ValueError(f"--html {page}: it is a folder: name a file in it")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("path", metavar="PATH", help="a file that data/formats/ reads, a folder or a glob")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="as for launch/train.py with that data")
    parser.add_argument("--rows", type=_count, metavar="N", help="rows, or documents, at most; default 200000")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the report")
    parser.add_argument("--html", metavar="FILE", help="also write a page with pictures")
    return parser.parse_intermixed_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number of at least 1")
    return int(text)


def inspect_path(path: str, settings: Sequence[str] = (), rows: int | None = None) -> Inspection:
    """Inspect what lies at `path`, read with `settings` of a training configuration."""
    from data.inspection.content import Limits  # only once the arguments are known to be right
    from launch.cli.catalog import configured_losses
    from recipes.data_inspection import Chosen, inspect_data

    tree = compose([*data_settings(path, settings), *settings])
    if tree["stages"]:
        raise ValueError("+exp: each stage of an experiment has its own training lists: give trainer.list_size instead")
    is_loss_given = any(setting.startswith(("loss=", "loss.", "+exp")) for setting in settings)
    model = model_options(tree, settings)
    chosen = Chosen(
        tree["trainer"]["list_size"],
        configured_losses(),
        loss=instantiate(tree["loss"], "loss") if is_loss_given else None,
        outputs=frozenset(model.outputs) if is_model_given(settings) else None,
        one_vector=model.one_vector if is_model_given(settings) else None,
        ordered_dimensions=model.ordered_dimensions or not is_model_given(settings),
        tokenizer=tokenizer_of(model, tree["data"], is_model_given(settings)),
        model=str(tree["model"].get("name_or_path", "")),
        limits=Limits() if rows is None else Limits(rows=rows),
    )
    return inspect_data(path, instantiate(tree["data"], "data"), chosen)


def is_model_given(settings: Sequence[str]) -> bool:
    """Whether settings choose the model, or options of it."""
    return any(setting.startswith(("model", "+exp")) for setting in settings)


def data_settings(path: str, settings: Sequence[str]) -> list[str]:
    """The settings that name the data: data=beir if a folder in BEIR's layout lies there, else data=file, unless
    `settings` choose the data."""
    from data.inspection.folders import beir_folder

    if re.match(r"[\w.@/+]+=", path) and not Path(path).expanduser().exists():
        raise ValueError(f"{path}: the path of the data comes first: python launch/inspect_data.py PATH {path}")
    folder = beir_folder(Path(path).expanduser())
    place = str(folder or path).replace("\\", "\\\\").replace("'", "\\'")
    kind = [] if any(setting.startswith("data=") for setting in settings) else [f"data={'beir' if folder else 'file'}"]
    return [*kind, f"data.path='{place}'"]


def model_options(tree: Mapping[str, Any], settings: Sequence[str]) -> Any:
    """The options of the model in `settings`, or of the default one. A model of launch/reason.py, which has no prompt
    template of its own, gets the one of conf/reason.yaml. Raises ValueError if it has no tokens to count."""
    options = instantiate(tree["model"], "model")
    if not options.trainable:
        raise ValueError(
            "this model has no tokens to count, and is not trained: choose model=cross_encoder, llm_reranker or "
            "bi_encoder, or leave it out"
        )
    if any(setting.startswith("model=llm_reasoner") for setting in settings) and options.template is None:
        template = instantiate(compose([], "reason")["template"], "template")
        return replace(options, template=template.prompt)
    return options


def tokenizer_of(options: Any, data: Mapping[str, Any], is_chosen: bool) -> CountingTokenizer | None:
    """The tokenizer of a model with these options, without its weights. That of a model which was not chosen is None if
    it is not found."""
    from models.loading.backbone import quiet, without_weights

    try:
        with quiet(), without_weights():
            model = options.build(0)
    except (ValueError, OSError):
        if is_chosen:
            raise
        return None
    model.expect_prompts({data.get("query_prompt"), data.get("document_prompt")})
    tokenizer: CountingTokenizer = model.tokenizer
    return tokenizer


if __name__ == "__main__":
    run_command(main)

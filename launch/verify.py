"""Compare the scores or vectors of an exported model in other libraries with those of training.

  python launch/verify.py outputs/RUN/model                                   through every library that is installed
  python launch/verify.py outputs/RUN/model --backends sentence-transformers onnx
  python launch/verify.py outputs/RUN/model --tei http://127.0.0.1:8080       and a running text-embeddings-inference
  python launch/verify.py outputs/RUN/model --tolerance 1e-3 --json

The texts and values are those of MODEL/golden.json, which every run writes. The exit status is 1 if a library differs
by more than the tolerance, or if nothing could be checked. A cause is named where it is known.
"""

from __future__ import annotations

try:
    import argparse
    import json
    import sys
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING

    from launch.cli.arguments import Parser, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None

if TYPE_CHECKING:
    from recipes.serving.verify import Finding


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    folder = Path(options.model).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"model {options.model}: no such folder ({folder.absolute()}); give outputs/RUN/model")
    if (folder / "model" / "golden.json").is_file() and not (folder / "golden.json").is_file():
        raise FileNotFoundError(f"model {options.model} is a run: give its model, {folder / 'model'}")
    from recipes.serving.verify import BACKENDS, as_json, is_right, verify  # torch and transformers

    names = options.backends or [name for name in BACKENDS if name != "tei"]
    names += ["tei"] * (bool(options.tei) and "tei" not in names)
    findings = verify(folder, names, options.tolerance, options.tei or "")
    if options.json:
        print(json.dumps(as_json(folder, findings, options.tolerance), ensure_ascii=False, indent=1))
    else:
        print("\n".join(table(findings)))
    if not is_right(findings):
        sys.exit(1)


def table(findings: Sequence[Finding]) -> list[str]:
    """One line per backend, with its causes and notes below."""
    width = max(len(finding.backend) for finding in findings)
    lines = [f"{'backend':<{width}}  result       largest difference  order"]
    for finding in findings:
        figures = ""
        if finding.difference is not None and finding.order is not None:
            figures = f"{finding.difference:>18.1e}  {finding.order:>5.0%}"
        lines.append(f"{finding.backend:<{width}}  {finding.status:<11}  {figures}".rstrip())
        lines += [f"{'':<{width}}    {text}" for text in (*finding.causes, *finding.notes)]
    return lines


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", help="outputs/RUN/model or another exported folder")
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="NAME",
        help="plackett, sentence-transformers, transformers, onnx, openvino, flagembedding, infinity, vllm, tei; "
        "default: all",
    )
    parser.add_argument("--tei", metavar="URL", help="address of a text-embeddings-inference server with this model")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="NUMBER", help="largest difference that is equal (1e-4)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if not 0 < options.tolerance < float("inf"):
        raise ValueError(f"--tolerance must be above 0, got {options.tolerance:g}")
    if "tei" in (options.backends or ()) and not options.tei:
        raise ValueError("--backends tei needs the server's address: --tei http://HOST:PORT")
    if options.tei and not options.tei.startswith(("http://", "https://")):
        raise ValueError(f"--tei {options.tei}: give an address, http://HOST:PORT")
    return options


if __name__ == "__main__":
    run_command(main)

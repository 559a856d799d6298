"""Add to an exported model what servers read: ONNX files, a sequence classifier, golden texts.

  python launch/export.py outputs/RUN/model --onnx                            onnx/model.onnx, for ONNX Runtime
  python launch/export.py outputs/RUN/model --onnx --int8                     and a file with weights of 8 bits
  python launch/export.py HUB_ID --onnx --output DIR                          into a copy of the model
  python launch/export.py outputs/RUN/model --sequence-classification         an LLM reranker as a classifier
  python launch/export.py outputs/RUN/model --golden                          golden.json, of an older export

What is written is compared with the golden texts of the export, and the difference is told. The exit status is 1 if it
is above 1e-4 (8 bits are told only). ONNX files need the packages of the extra `onnx`.
"""

from __future__ import annotations

try:
    import argparse
    import sys
    from collections.abc import Sequence
    from pathlib import Path

    from launch.cli.arguments import Parser, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: run `pip install -e .` in the repository first") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    from launch.verify import table
    from recipes.serving.export import add_golden, export_classifier, export_onnx  # torch and transformers

    output = Path(options.output).expanduser() if options.output else None
    if options.golden:
        folder = Path(options.model).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"model {options.model}: no such folder ({folder.absolute()})")
        print(f"{add_golden(folder)}: written from the model as it is now")
        return
    if options.onnx:
        written = export_onnx(options.model, output, int8=options.int8)
    else:
        written = export_classifier(options.model, output)
    print("\n".join([*written.lines, *(table(written.findings) if written.findings else [])]))
    if not written.is_right:
        sys.exit(1)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__file__, __doc__)
    parser.add_argument("model", help="outputs/RUN/model, another folder or a hub id")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--onnx", action="store_true", help="write onnx/model.onnx, with dynamic rows and tokens")
    what.add_argument(
        "--sequence-classification",
        action="store_true",
        help="write an LLM reranker as a sequence classifier of the same score (default: to MODEL-classifier)",
    )
    what.add_argument("--golden", action="store_true", help="write golden.json by the model as it is now")
    parser.add_argument("--int8", action="store_true", help="with --onnx: also a file with weights of 8 bits")
    parser.add_argument("--output", metavar="DIR", help="a new folder to write to, instead of MODEL")
    options = parser.parse_args(arguments)
    if options.int8 and not options.onnx:
        raise ValueError("--int8 quantises what --onnx writes: give both")
    if options.golden and options.output:
        raise ValueError("--golden writes into MODEL: leave --output out")
    return options


if __name__ == "__main__":
    run_command(main)

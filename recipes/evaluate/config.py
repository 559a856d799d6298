"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.precision import check_precision
from evaluation.evaluator import EvaluatorConfig
from recipes.checks.compatibility import check_evaluation, check_is_data, check_is_model
from recipes.evaluate.against_files import check_against
from recipes.evaluate.first_stage_names import check_entries
from recipes.run_config import check_timeout


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The root of conf/evaluate.yaml."""

    model: Any  # models.capabilities.ModelOptions, or a retriever such as data.bm25.BM25
    data: Any
    eval: EvaluatorConfig
    eval_of_degrees: EvaluatorConfig | None = None  # instead of `eval` for pairs labelled with degrees; None: refused
    split: str = "test"
    fusion_weight: float | None = None
    precision: str = "auto"
    seed: int = 42
    output: str | None = None
    against: str | None = None  # another run, whose rankings of the same queries are compared with
    first_stages: list[str] = field(default_factory=list)  # bm25, run files, embedding models; none: the candidates
    cost: bool = False  # also measure documents per second, the time of a query, memory and index
    timeout_s: float = 1800.0  # seconds without progress of a rank or collective after which the run is ended

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_model("model", self.model)
        check_is_data(self.data)
        if own := [name for name, loss in self.data.own_losses.items() if loss is not None]:
            raise ValueError(f"data.sources.{own[0]}.loss is read in training only: leave it out")
        if not self.model.retrieves_by_itself:
            check_evaluation(self.eval, self.model)
        elif not self.retrieves:
            reason = (
                "finds the candidates that eval=reranking reorders"
                if self.eval.ranks
                else "gives no scores of pairs, which eval=similarity compares with labels"
            )
            raise ValueError(f"model={self.model.name} {reason}: choose eval=retrieval")
        elif self.fusion_weight is not None:
            raise ValueError(
                f"fusion_weight={self.fusion_weight}: model={self.model.name} is fused with nothing, leave it out"
            )
        if self.fusion_weight is not None and not 0 <= self.fusion_weight <= 1:
            raise ValueError(f"fusion_weight={self.fusion_weight} must lie in [0, 1] (1: the model alone)")
        if self.fusion_weight is not None and not self.eval.ranks:
            raise ValueError(f"fusion_weight={self.fusion_weight}: eval=similarity fuses with nothing, leave it out")
        if self.against is not None:
            if not self.eval.ranks:
                raise ValueError(f"against={self.against}: eval=similarity ranks nothing to compare, leave it out")
            check_against(Path(self.against).expanduser(), may_be_suite=True)  # whether data are is known later
        self._check_first_stages()
        if self.cost and not self.eval.ranks:
            raise ValueError("cost=true: eval=similarity finds no documents for queries, leave it out")
        self._check_output()

    def _check_output(self) -> None:
        """Before anything is evaluated: the files are written at the end."""
        if self.output is None:
            return
        if not Path(self.output).absolute().parent.is_dir():
            raise FileNotFoundError(f"output={self.output}: the folder {Path(self.output).parent} does not exist")
        if Path(self.output).suffix != ".json" or Path(self.output).is_dir():
            raise ValueError(f"output={self.output}: give the name of a file, FILE.json")

    def _check_first_stages(self) -> None:
        if not self.first_stages:
            return
        if self.retrieves or not self.eval.ranks:
            raise ValueError(
                "first_stages give the candidates that are reranked: choose eval=reranking, or leave it out"
            )
        if self.against is not None:
            raise ValueError(
                f"against={self.against} compares one ranking with another, and first_stages gives several: leave one "
                "out (output=FILE.json writes each of them as a run, FILE.NAME.model.run)"
            )
        if path := getattr(getattr(self.data, "candidates", None), "path", None):
            raise ValueError(
                f"data.candidates.path={path} is not read beside first_stages: name the file there, "
                f"first_stages=[{','.join([*self.first_stages, str(path)])}] data/candidates=bm25"
            )
        check_entries(self.first_stages)

    @property
    def retrieves(self) -> bool:
        return self.eval.searches_corpus

    @property
    def splits(self) -> list[str]:
        """The evaluated split, and dev if the fusion weight is fitted on it (no weight is given, dev is not
        evaluated)."""
        is_fused = self.eval.ranks and not self.model.retrieves_by_itself
        fits_weight = is_fused and self.fusion_weight is None and self.split != "dev"
        return [self.split, "dev"] if fits_weight else [self.split]

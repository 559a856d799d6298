"""Decide: which models keep the limits, which are tied with the best, which of those is the cheapest, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluation.choice import Comparison, can_tell, cheapest, compare_with_best, is_worse, pareto_front
from evaluation.significance import PairedTest, corrected, paired_test
from recipes.choose.config import ChooseConfig
from recipes.choose.limits import LICENCE, MEASURES, broken_limits, cost_of, in_bytes
from recipes.choose.store import PerQuery

FRONTS = ("memory_bytes",)  # beside the chosen cost
FAILED, LIMITED, WORSE, TIED, OPEN, CHOSEN = "failed", "eliminated", "worse", "tied", "not told apart", "chosen"


@dataclass(frozen=True)
class Contender:
    """A model that keeps the limits, in whole float32 vectors or, if these do not keep them, in the stored form of the
    highest quality that does; `forms`: all of them that do."""

    row: Mapping[str, Any]
    form: Mapping[str, Any] | None  # None: it has no stored forms
    forms: Sequence[Mapping[str, Any]]
    values: dict[str, Any]  # by the names of MEASURES

    def quality(self, per_query: PerQuery, metric: str) -> dict[str, float]:
        """The values of the queries in its form."""
        return per_query[metric + (self.form["suffix"] if self.form else "")]


def values_of(row: Mapping[str, Any], form: Mapping[str, Any] | None, metric: str) -> dict[str, Any]:
    """What a model is limited by. What it does not have is left out; what is not known is None."""
    cost = row["cost"]
    names = ("query_ms_p50", "query_ms_p95", "documents_per_s", "peak_memory_bytes")
    index = form["index_bytes"] if form else row["index_bytes"]
    found = {name: cost[name] for name in names}
    found |= {"index_bytes": index, "memory_bytes": cost["peak_memory_bytes"] + index}
    found["quality"] = form["quality"] if form else row["metrics"][metric]
    if row["kind"] == "bm25":
        return found
    texts, truncated = row["texts"] or {}, row["truncated"] or {}
    found |= {"parameters": row["parameters"], "price": row["price"], "context": row["max_length"]}
    found |= {"truncated_documents": truncated.get("documents"), "truncated_queries": truncated.get("queries")}
    found |= {name: texts.get(name) for name in ("vocabulary", "tokens_per_word", "unknown_tokens", "broken_terms")}
    found |= {LICENCE: row["declared"]["licence"]}
    return found | ({"dimension": form["dim"]} if form else {})


def decide(
    settings: ChooseConfig, rows: Sequence[Mapping[str, Any]], per_query: Mapping[str, PerQuery]
) -> dict[str, Any]:
    """The decision in JSON types: the verdict and reason of every row, the best, the chosen, the Pareto fronts.

    `per_query`: of each row's label the values of each query by metric. Rows that failed have `error`.
    """
    verdicts: dict[str, dict[str, Any]] = {}
    contenders: dict[str, Contender] = {}
    for row in rows:
        if "error" in row:
            verdicts[row["label"]] = {"verdict": FAILED, "reason": f"failed: {row['error']}"}
            continue
        contender = _contender(settings, row)
        if isinstance(contender, str):
            verdicts[row["label"]] = {"verdict": LIMITED, "reason": f"eliminated: {contender}"}
        else:
            contenders[row["label"]] = contender
    if not contenders:
        none: dict[str, Any] = {
            "best": None,
            "chosen": None,
            "form": None,
            "sentence": "no model keeps all limits",
            "tied": [],
        }
        return {**none, "verdicts": verdicts, "pareto": {}, "form_tests": {}}
    metric = settings.eval.metric
    values = {label: each.quality(per_query[label], metric) for label, each in contenders.items()}
    comparison = compare_with_best(values)
    costs = {label: cost_of(settings.cost_by, contenders[label].values) for label in contenders}
    queries = len(values[comparison.best])
    few = not can_tell(queries, len(values) - 1)  # no difference could be found: that is no reason for the cheapest
    tied = [comparison.best] if few else comparison.tied
    chosen = cheapest(tied, costs)
    forms = {} if few else _forms(contenders[chosen], per_query[chosen], values[comparison.best], metric)
    form = _smallest(contenders[chosen], forms, settings.form_loss)
    for label, contender in contenders.items():
        verdicts[label] = {**_verdict(settings, label, comparison, contenders, tied, chosen), **_in_form(contender)}
        if contender.form and contender.form["suffix"]:
            verdicts[label]["reason"] += f"; compared as {contender.form['form']}, which keeps the limits"
        verdicts[label]["test"] = asdict(comparison.tests[label])
    means = {label: sum(own.values()) / len(own) for label, own in values.items()}
    return {
        "best": comparison.best,
        "chosen": chosen,
        "form": form["form"] if form else None,
        "sentence": _sentence(settings, chosen, form, comparison.best, tied, contenders, forms)
        + "; models that do not keep the limits do not count"
        * (LIMITED in {own["verdict"] for own in verdicts.values()})
        + f" ({queries:,} test quer{'y' if queries == 1 else 'ies'}: too few to tell any two models apart)" * few,
        "tied": tied,
        "verdicts": {row["label"]: verdicts[row["label"]] for row in rows},
        "pareto": {
            key: pareto_front({label: (means[label], [cost_of(key, contenders[label].values)]) for label in contenders})
            for key in dict.fromkeys((settings.cost_by, *FRONTS))
        },
        "form_tests": {name: asdict(test) for name, test in forms.items()},
    }


def _contender(settings: ChooseConfig, row: Mapping[str, Any]) -> Contender | str:
    """The contender of a row, or why it is none: a sentence."""

    def broken(form: Mapping[str, Any] | None, kind: Literal["model", "form"]) -> list[str]:
        return broken_limits(settings.limit, values_of(row, form, settings.eval.metric), kind)

    forms: Sequence[Any] = row["forms"] or [None]
    if of_model := broken(forms[0], "model"):
        return "; ".join(of_model)
    kept = [form for form in forms if not broken(form, "form")]
    if not kept:
        smallest = min(forms, key=lambda form: form["index_bytes"] if form else 0)
        whole = broken(forms[0], "form")
        if smallest is forms[0]:
            return "; ".join(whole)
        why = "; ".join(broken(smallest, "form"))
        return f"{'; '.join(whole)}; and in its smallest form ({smallest['form']}) {why}"
    # Not the largest that is kept: half of the dimensions lose more than the smaller int8 form of all of them.
    form = forms[0] if forms[0] in kept else max(kept, key=lambda each: each["quality"])
    own = [each for each in kept if each]
    return Contender(row, form, own, values_of(row, form, settings.eval.metric))


def _in_form(contender: Contender) -> dict[str, Any]:
    form = contender.form
    return {"form": form["form"] if form else None, "values": contender.values}


def _forms(contender: Contender, per_query: PerQuery, best: Mapping[str, float], metric: str) -> dict[str, PairedTest]:
    """The tests of the chosen model's stored forms against the best model, corrected together."""
    if not contender.forms:
        return {}
    own = {each["form"]: per_query[metric + each["suffix"]] for each in contender.forms}
    return corrected({name: paired_test(best, values) for name, values in own.items()})


def _smallest(contender: Contender, tests: Mapping[str, PairedTest], loss: float) -> Mapping[str, Any] | None:
    """The stored form with the smallest index that is not worse than the best model, and at most `loss` below the
    contender's own form; that one if there is none."""
    if contender.form is None:
        return None
    least = contender.form["quality"] - loss
    good = [each for each in contender.forms if each["quality"] >= least and each["form"] in tests]
    tied = [each for each in good if not is_worse(tests[each["form"]])]
    return min(tied, key=lambda each: each["index_bytes"]) if tied else contender.form


def _verdict(
    settings: ChooseConfig,
    label: str,
    comparison: Comparison,
    contenders: Mapping[str, Contender],
    tied: Sequence[str],
    chosen: str,
) -> dict[str, str]:
    """The verdict on a contender and its reason in a sentence."""
    test, best, metric = comparison.tests[label], comparison.best, settings.eval.metric
    if is_worse(test):
        return {
            "verdict": WORSE,
            "reason": f"worse than {best}: {metric} {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}], "
            f"{_p(test)}",
        }
    if label not in tied:
        told = f"too few queries to tell it from {best} ({metric} {test.difference:+.4f}, {_p(test)})"
        return {"verdict": OPEN, "reason": told}
    rank = "the best" if label == best else f"tied with {best} ({metric} {test.difference:+.4f}, {_p(test)})"
    if label == chosen:
        others = [name for name in tied if name != label]
        why = f", and the cheapest of the {len(others) + 1} that are tied" if others else ""
        cost = f" ({_cost(settings, contenders[label])})" if others else ""
        return {"verdict": CHOSEN, "reason": f"{rank}{why}{cost}"}
    own, other = _cost(settings, contenders[label]), _cost(settings, contenders[chosen])
    return {"verdict": TIED, "reason": f"{rank}, and not cheaper than {chosen}: {own}, against {other}"}


def _p(test: PairedTest) -> str:
    return f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < .001"


def _cost(settings: ChooseConfig, contender: Contender) -> str:
    """The cost by which models are chosen, in words."""
    key = settings.cost_by
    if key not in contender.values:
        return f"no {key}"
    value = contender.values[key]
    return f"{key} not known" if value is None else f"{key} {MEASURES[key].show(value)}"


def _sentence(
    settings: ChooseConfig,
    chosen: str,
    form: Mapping[str, Any] | None,
    best: str,
    tied: Sequence[str],
    contenders: Mapping[str, Contender],
    tests: Mapping[str, PairedTest],
) -> str:
    """The recommendation in a sentence."""
    metric, contender = settings.eval.metric, contenders[chosen]
    why = "it is the best"
    if len(tied) > 1:
        which = "tied with each other" if chosen == best else f"tied with the best, {best},"
        why = f"of the {len(tied)} that are {which} it is the cheapest ({_cost(settings, contender)})"
    if form is None or contender.form is None or form["form"] == contender.form["form"]:
        stored = f", stored as {contender.form['form']}" if contender.form and contender.form["suffix"] else ""
        return f"{chosen}{stored}: {why}"
    test = tests[form["form"]]
    against = contender.form["form"] if chosen == best else best
    return (
        f"{chosen}, stored as {form['form']}: {why}; stored so, its index takes {in_bytes(form['index_bytes'])} in "
        f"place of {in_bytes(contender.form['index_bytes'])}, and no test tells it from {against} "
        f"({metric} {test.difference:+.4f}, {_p(test)})"
    )


def resolution(decision: Mapping[str, Any]) -> float | None:
    """How far a tied model may be below the best without the test telling: the lowest end of their intervals of
    differences; None if nothing is tied with the best."""
    tests = {label: each["test"] for label, each in decision["verdicts"].items() if "test" in each}
    lows = [-tests[label]["low"] for label in decision["tied"] if label != decision["best"]]
    return max(lows) if lows else None

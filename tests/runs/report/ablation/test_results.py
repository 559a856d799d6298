"""The results of an ablation from the runs on disk, and what tables and sentences say of them."""

import json

import numpy as np
import pytest
from stored_ablation import METRIC, write_ablation, write_run

from benchmarks.ablation_significance import as_values
from evaluation.ablation import compare, estimate
from runs.files import json_safe
from runs.report.ablation.results import ablation_results
from runs.report.ablation.sentences import print_ablation, sentences
from runs.report.ablation.table import in_order, main_table, pairs_table, shown_names, unfinished_table
from runs.report.searched import about_searched
from runs.report.table import aligned

NAMES = ("list_net", "list_mle", "rank_net")
KEYS = "loss=list_mle, trainer.learning_rate="


def _values(effects, *, seeds=3, queries=40, names=NAMES, noise=0.02):
    """Values of configurations that differ by `effects`, by seed and query."""
    rng = np.random.default_rng(0)
    table = 0.4 + 0.2 * rng.random((1, 1, queries)) + noise * rng.normal(size=(len(effects), seeds, queries))
    drawn = as_values(table + np.array(effects)[:, None, None])
    return {
        name: {seed + 1: own for seed, own in values.items()}
        for name, values in zip(names, drawn.values(), strict=True)
    }


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Three configurations, of which the last is clearly the best and one has a failed seed."""
    values = _values([0.0, 0.003, 0.1])
    failed_value = values["list_mle"].pop(3)
    assert failed_value
    folder = tmp_path_factory.mktemp("ablation")
    plan = write_ablation(folder, values, failed=[("list_mle", 3), ("broken", 1)])
    return {**plan, "results": json.loads(json.dumps(json_safe(ablation_results(folder, plan)))), "values": values}


def test_results_are_the_estimates_and_tests_of_the_stored_values(plan):
    results, values = plan["results"], plan["values"]
    assert (results["metric"], results["queries"], results["best"]) == (METRIC, 40, "rank_net")
    assert results["tied"] == ["rank_net"]
    for name, seeds in values.items():
        entry, found = results["configurations"][name], estimate(seeds)
        assert entry["mean"] == pytest.approx(found.interval.mean)
        assert entry["interval"] == pytest.approx([found.interval.low, found.interval.high])
        assert [row["seed"] for row in entry["seeds"]] == list(seeds)
        assert [row["value"] for row in entry["seeds"]] == pytest.approx(
            [np.mean(list(v.values())) for v in seeds.values()]
        )
    expected = {(each.first, each.second): each for each in compare(values)}
    assert [(pair["first"], pair["second"]) for pair in results["pairs"]] == list(expected)
    for pair in results["pairs"]:
        each = expected[pair["first"], pair["second"]]
        assert pair["corrected"] == pytest.approx(each.corrected)
        assert pair["difference"] == pytest.approx(each.test.difference)


def test_jobs_without_a_result_are_said_and_counted(plan, capsys):
    results = plan["results"]
    assert results["configurations"]["broken"]["mean"] is None
    assert results["configurations"]["list_mle"]["unfinished"] == [
        {"seed": 3, "status": "failed", "error": "the <loss> is not finite"}
    ]
    header, cells = main_table(plan)
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in cells}
    assert list(rows) == ["1 rank_net", "2 list_mle", "3 list_net", "4 broken"]
    assert rows["2 list_mle"]["seeds"] == "2 of 3"
    assert rows["4 broken"]["vs best"] == "no result"
    assert unfinished_table(plan)[1][0] == ["list_mle, seed 3", "failed", "the <loss> is not finite"]
    print_ablation(plan)
    assert "broken, seed 1: failed, the <loss> is not finite" in capsys.readouterr().out


def test_the_table_compares_with_the_baseline_and_the_best(plan):
    header, cells = main_table(plan)
    rows = {row[0]: dict(zip(header, row, strict=True)) for row in cells}
    assert rows["3 list_net"]["vs baseline"] == "baseline"
    assert rows["1 rank_net"]["vs baseline"] == f"{_pair(plan, 'list_net', 'rank_net')['difference']:+.4f}"
    assert (rows["1 rank_net"]["vs best"], rows["2 list_mle"]["vs best"]) == ("best", "worse")
    lines = list(aligned(header, cells))
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(pairs_table(plan["results"])[1]) == 3


def _pair(plan, first, second):
    return next(pair for pair in plan["results"]["pairs"] if (pair["first"], pair["second"]) == (first, second))


def test_sentences_say_what_is_known_and_what_is_not(plan):
    best, first_stage, baseline, tests, least, choice = sentences(plan)
    assert first_stage == "the first stage has 0.4000 on the same queries"
    assert best.startswith("rank_net has the highest mean of 3 configurations, nDCG@10 0.")
    assert "better than list_mle (+0." in best
    assert "not told apart" not in best
    assert baseline.startswith("beside the baseline, list_net: better: rank_net (+0.")
    assert baseline.endswith("not told apart from it: list_mle")
    assert tests.startswith("p-values, corrected for 3 comparisons (Holm), count queries and seeds as samples")
    assert least.startswith("with 2 to 3 seeds and 40 queries, most differences below 0.0")
    assert choice.startswith("the test queries were looked at 3 times")


def _results(folder, values, **options):
    plan = write_ablation(folder, values, **options)
    return {**plan, "results": ablation_results(folder, plan)}


def test_one_seed_counts_queries_alone(tmp_path):
    plan = _results(tmp_path, _values([0.0, 0.0, 0.1], seeds=1))
    assert {pair["counts"] for pair in plan["results"]["pairs"]} == {"queries"}
    assert any("with one seed, a difference may be that of the seed" in line for line in sentences(plan))
    assert "spread" not in main_table(plan)[0]


def test_two_configurations_with_few_seeds_are_warned(tmp_path):
    few = _results(tmp_path / "few", _values([0.0, 0.1], names=["a", "b"]))
    many = _results(tmp_path / "many", _values([0.0, 0.1], names=["a", "b"], seeds=5))
    warning = "with two configurations and 3 seeds the p-value may be half of what it should be: train 5"
    assert warning in sentences(few)
    assert not any("two configurations" in line for line in sentences(many))
    assert "p-value and interval count queries and seeds as samples" in sentences(many)


def test_one_configuration_has_a_mean_and_no_test(tmp_path):
    plan = _results(tmp_path, _values([0.0], names=["settings as given"]))
    assert (plan["results"]["pairs"], plan["results"]["least"]) == ([], None)
    line, _ = sentences(plan)
    assert line.endswith("an interval that counts queries and seeds")
    assert not {"vs baseline", "vs best"} & set(main_table(plan)[0])


def test_without_a_finished_job_there_are_no_results(tmp_path):
    plan = write_ablation(tmp_path, {}, failed=[("a", 1)])
    assert ablation_results(tmp_path, plan) is None
    assert sentences(plan) == ["no run has a result yet"]


def test_only_queries_that_all_runs_have_are_counted(tmp_path):
    values = _values([0.0, 0.1, 0.2])
    del values["list_mle"][2]["q0003"]
    plan = _results(tmp_path, values)
    assert plan["results"]["queries"] == 39
    assert (
        "warning: the test queries differ between runs: only the 39 of 40 that all runs have are counted"
        in sentences(plan)
    )


def test_queries_of_the_same_id_with_another_text_are_others(tmp_path):
    values = _values([0.0, 0.1], names=["a", "b"])
    plan = write_ablation(tmp_path, values)
    for file in tmp_path.glob("runs/2-*/runs/queries.jsonl"):
        file.write_text(file.read_text().replace("text of", "another text of"))
    results = ablation_results(tmp_path, plan)
    assert (results["pairs"], results["best"], results["tied"]) == ([], None, [])
    assert results["configurations"]["a"]["mean"] is not None
    lines = sentences({**plan, "results": results})
    assert lines[0] == "warning: the runs were evaluated on different test queries: they cannot be compared"
    assert not any("highest mean" in line for line in lines)
    assert not any("not told apart" in line for line in lines)


def _summaries(folder, name, **changed):
    """Change the summaries of the runs of a configuration."""
    for file in folder.glob(f"runs/{name}-*/summary.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def _part(documents, key):
    return {"documents": documents, "of": 900, "hash": key}


def test_values_over_different_documents_are_not_compared(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1], names=["a", "b"]))
    _summaries(tmp_path, 1, partial=_part(200, "x"), searched=_part(200, "x"))
    _summaries(tmp_path, 2, partial=_part(500, "y"), searched=_part(500, "y"))
    results = ablation_results(tmp_path, plan)
    assert (results["pairs"], results["best"], results["least"]) == ([], None, None)
    lines = sentences({**plan, "results": results})
    assert lines[0].startswith(
        "warning: different documents were searched, so no values are compared: 200 of 900 (a); 500 of 900 (b); "
    )
    assert not any("better" in line or "not told apart" in line for line in lines)
    header, cells = main_table({**plan, "results": results})
    assert not {"vs best", "p"} & set(header)
    assert [row[0] for row in cells] == ["1 b", "2 a"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"searched": {"documents": 9, "hash": "x"}}, {"searched": {"documents": 9, "hash": "x"}}, True),
        ({"searched": {"documents": 9, "hash": "x"}}, {"searched": {"documents": 9, "hash": "y"}}, False),
        ({"searched": {"documents": 9, "hash": "x"}}, {}, True),  # stored before there was "searched": all, too
        ({"partial": _part(5, "x")}, {"partial": _part(5, "x"), "searched": _part(5, "x")}, True),
        ({"partial": _part(5, "x")}, {"partial": _part(5, "y")}, False),
        ({"partial": _part(5, "x")}, {}, False),
        ({}, {}, True),
    ],
)
def test_documents_are_told_apart_by_their_hash(first, second, same):
    assert (about_searched([("a", first), ("b", second)]) == []) is same


def test_the_value_before_training_is_that_of_the_queries_that_count(tmp_path):
    plan = write_ablation(tmp_path, {"a": {1: {"q": 0.4, "r": 0.8}}, "b": {1: {"q": 0.5}}})
    for file in tmp_path.glob("runs/*/runs/queries.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line, before in zip(lines, (0.2, 0.9), strict=False):
            line["values"] |= {"before": {METRIC: before}, "first_stage": {METRIC: before + 0.1}}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = ablation_results(tmp_path, plan)
    entries = results["configurations"]
    assert [entries[name]["before"] for name in "ab"] == [0.2, 0.2]  # a's own mean is 0.55
    assert results["first_stage"] == pytest.approx(0.3)


def test_equal_means_and_runs_that_kept_their_start_are_said(tmp_path):
    plan = write_ablation(tmp_path, {name: {1: {"q": 0.3, "r": 0.4}, 2: {"q": 0.3, "r": 0.4}} for name in "abc"})
    _summaries(tmp_path, 2, best_step=0)
    lines = sentences({**plan, "results": ablation_results(tmp_path, plan)})
    assert lines[0].startswith("all 3 configurations have the same mean, nDCG@10 0.3500")
    assert not any("highest" in line or "the best" in line for line in lines)
    kept = "2 of 6 runs have the model that they started from, since no checkpoint beat it on dev: b, seed 1; b, seed 2"
    assert kept in lines


def test_two_equal_ones_share_the_highest_mean(tmp_path):
    plan = write_ablation(tmp_path, {"a": {1: {"q": 0.4}}, "b": {1: {"q": 0.4}}, "c": {1: {"q": 0.3}}})
    first, *_ = sentences({**plan, "results": ablation_results(tmp_path, plan)})
    assert first.startswith("a, b have the highest mean of 3 configurations, nDCG@10 0.4000")


def test_runs_without_values_of_queries_count_seeds(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1], names=["a", "b"]))
    for file in tmp_path.glob("runs/*/runs/queries.jsonl"):
        file.unlink()
    results = ablation_results(tmp_path, plan)
    assert (results["queries"], [pair["counts"] for pair in results["pairs"]]) == (0, ["seeds"])
    assert any("seeds alone are counted" in line for line in results["warnings"])


def test_a_run_with_another_metric_is_left_out(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0], names=["a"]))
    run = "runs/other-seed1"
    write_run(tmp_path / run, {"q": 1.0}, seconds=1.0, best_dev=None, metric="MAP", metrics={"after": {"MAP": 1.0}})
    plan["configurations"].append({"name": "other", "overrides": []})
    plan["jobs"].append({"configuration": "other", "seed": 1, "run": run, "status": "finished", "error": None})
    results = ablation_results(tmp_path, plan)
    assert results["configurations"]["other"]["mean"] is None
    assert results["warnings"] == ["other, seed 1 has not measured nDCG@10: list it in eval.metrics"]


def test_a_search_is_ranked_by_dev(tmp_path):
    rates = [1e-05, 3e-05, 0.0001, 0.001, 0.01]
    names = [f"trial {number} (trainer.learning_rate={rate:.3g})" for number, rate in enumerate(rates)]
    (tmp_path / "search.journal").write_text("")
    overrides = {name: [f"trainer.learning_rate={rate}", "loss=bce"] for name, rate in zip(names, rates, strict=True)}
    dev = dict(zip(names, [0.1, 0.2, 0.5, 0.4, 0.3], strict=True))
    values = _values([0.3, 0.0, 0.1, 0.1, 0.1], seeds=1, names=names)
    plan = _results(tmp_path, values, overrides=overrides, dev=dev)
    results = plan["results"]
    assert results["best"] == names[2]  # though trial 0 has the highest mean on test
    assert results["search"]["correlations"] == {"trainer.learning_rate": pytest.approx(0.6)}
    header, cells = main_table(plan)
    assert header[:5] == ["trial", "learning_rate", "loss", "dev", METRIC]
    assert [row[:4] for row in cells[:2]] == [["2", "0.0001", "bce", "0.5000"], ["3", "0.001", "bce", "0.4000"]]
    best, *_, choice = sentences(plan)
    assert "is the best of 5 trials on dev, 0.5000; on test nDCG@10 0.6" in best
    assert "trial 0" not in best
    assert "too high; the one on test is not" in choice


def test_long_names_lose_what_all_share(tmp_path):
    names = [f"{KEYS}{rate}, model=cross_encoder_of_twelve_layers" for rate in ("1e-05", "0.0001")]
    plan = _results(tmp_path, _values([0.0, 0.1], names=names))
    assert shown_names(plan["results"]) == {names[0]: "learning_rate=1e-05", names[1]: "learning_rate=0.0001"}
    assert main_table(plan)[1][0][0] == "1 learning_rate=0.0001"


def test_a_broken_file_is_named(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0], names=["a"]))
    (tmp_path / "runs/1-seed2/summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"1-seed2/summary.json is broken"):
        ablation_results(tmp_path, plan)


def test_order(plan):
    assert in_order(plan["results"])[-1] == "broken"


def test_a_run_without_values_of_queries_is_left_out_alone(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1], names=["a", "b"]))
    (tmp_path / "runs/1-seed2/runs/queries.jsonl").unlink()
    results = ablation_results(tmp_path, plan)
    assert results["warnings"] == ["a, seed 2 has no values of single queries: it is left out"]
    assert (results["queries"], results["pairs"][0]["seeds"]) == (40, 2)
    assert [row["seed"] for row in results["configurations"]["a"]["seeds"]] == [1, 3]


def _rewrite(folder, name, **changed):
    """Change the summaries of the runs of a configuration, and remove their values of single queries."""
    for file in folder.glob(f"runs/{name}-*/summary.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
        (file.parent / "runs/queries.jsonl").unlink()


def test_pairs_of_other_data_are_not_compared_in_silence(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1], names=["a", "b"]))
    _rewrite(tmp_path, 1, data_hash="abc", test_pairs=7)
    _rewrite(tmp_path, 2, data_hash="def", test_pairs=7)
    about = "the data differ (a, seed 1; b, seed 1): they are compared only if their test pairs are the same ones"
    results = ablation_results(tmp_path, plan)
    assert about in results["warnings"]
    assert len(results["pairs"]) == 1
    for file in tmp_path.glob("runs/2-*/summary.json"):
        file.write_text(file.read_text().replace('"test_pairs": 7', '"test_pairs": 8'))
    assert ablation_results(tmp_path, plan)["pairs"] == []


def test_dev_values_of_another_metric_are_left_out(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1, 0.0]), dev={"list_net": 0.3, "list_mle": 0.2, "rank_net": 0.9})
    for file in tmp_path.glob("runs/3-*/summary.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "metric": "R@100"}))
    plan["results"] = ablation_results(tmp_path, plan)
    assert plan["results"]["configurations"]["rank_net"]["best_dev"] is None
    warning = "warning: dev values of another metric than nDCG@10 are left out: rank_net (R@100)"
    assert warning in sentences(plan)
    assert "or choose by dev: list_net" in "".join(sentences(plan))


def test_a_configuration_that_diverges_is_said_and_hides_nothing(tmp_path):
    names = ["a", "b", "c", "d"]
    values = _values([0.0, 0.05, 0.0, 0.0], names=names, noise=0.01)
    values["d"] = {
        seed: {query: value - 0.3 * (seed == 2) for query, value in own.items()} for seed, own in values["d"].items()
    }
    plan = _results(tmp_path, values)
    assert plan["results"]["left_out"] == ["d"]
    assert _pair(plan, "a", "b")["corrected"] < 0.01
    said = [line for line in sentences(plan) if line.startswith("seeds vary far more than elsewhere in d (spread 0.1")]
    assert len(said) == 1


def test_runs_that_stopped_early_are_in_the_table(tmp_path):
    plan = write_ablation(tmp_path, _values([0.0, 0.1], names=["a", "b"]))
    for run, steps in (("1-seed1", 20), ("1-seed2", 40)):
        file = tmp_path / "runs" / run / "summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "stopped_early": True, "steps": steps}))
    header, cells = main_table({**plan, "results": ablation_results(tmp_path, plan)})
    assert [row[header.index("stopped early")] for row in cells] == ["-", "2 of 3, step 20-40"]


def test_other_code_and_other_data_are_warned_of_but_not_shares_by_the_seed(tmp_path):
    plan = write_ablation(tmp_path, {name: {seed: {"q": 0.3, "r": 0.4} for seed in (1, 2)} for name in ("a", "b")})

    def warned(share: float, *, data: list[str], code: list[str], paths: str = "....") -> list[str]:
        for job, of_data, of_code, path in zip(plan["jobs"], data, code, paths, strict=True):
            run = tmp_path / job["run"]
            config = (
                f"seed: {job['seed']}\ntrain_share: {share}\nstages: [a]\nstage: {{a: {{data: {{path: {path}}}}}}}\n"
            )
            (run / "config.yaml").write_text(config)
            (run / "environment.json").write_text(json.dumps({"code_hash": of_code}))
            summary = json.loads((run / "summary.json").read_text())
            (run / "summary.json").write_text(json.dumps({**summary, "data_hash": of_data}))
        found = ablation_results(tmp_path, plan)["warnings"]
        return [" ".join(line.split()[:3]) for line in found if "differ" in line]

    one = ["x"] * 4
    assert warned(1.0, data=one, code=one) == []
    assert warned(0.5, data=["1", "2", "1", "2"], code=one) == []
    assert warned(0.5, data=["1", "2", "1", "3"], code=one) == ["the data differ"]
    assert warned(1.0, data=["1", "1", "2", "2"], code=one, paths="AABB") == []  # as the settings say
    assert warned(1.0, data=["1", "1", "2", "3"], code=one, paths="AABB") == ["the data differ"]
    assert warned(1.0, data=["1", "2", "1", "2"], code=["x", "x", "y", "x"]) == ["the code differs", "the data differ"]

"""The study: its runs, and how claims are judged. Its runs themselves take hours."""

import json
import pathlib

import numpy as np
import pytest

from state_of_sparsity.models.training.run_folder import RunFolder
from study import page
from study.claims import Comparison, Verdict, at_sparsities, at_targets, judge, tally
from study.labs import LABS
from study.plan import EXPERIMENTS, SEEDS, stages
from study.results import Results

FOLDER = pathlib.Path("runs/study/x")


def runs_of(lab):
    return [run for stage in stages(lab, FOLDER) for run in stage]


@pytest.mark.parametrize("lab", LABS.values(), ids=lambda lab: lab.name)
def test_each_run_is_another_one_and_has_flags_that_its_binary_takes(lab):
    runs = runs_of(lab)
    assert len({run.configuration.name for run in runs}) == len(runs)
    for run in runs:
        assert run.experiment in EXPERIMENTS
        if "budget" not in run.configuration.settings:
            run.configuration.check()


def test_the_whole_grid_is_run_on_mnist1d():
    lab = LABS["mnist1d"]
    runs = runs_of(lab)
    for experiment in EXPERIMENTS:
        own = [run for run in runs if run.experiment == experiment]
        assert {run.seed for run in own} == set(SEEDS), experiment
        points = 1 if experiment == "dense" else 6
        assert len(own) == points * len(SEEDS), experiment


def test_runs_alone_begin_with_other_values_unless_they_are_lottery_tickets():
    runs = runs_of(LABS["mnist1d"])
    sources = {r.configuration.name: r for r in runs if r.experiment == "magnitude"}
    alone = [r for r in runs if "load_masks_from" in r.configuration.settings]
    assert len(alone) == 6 * 6 * len(SEEDS)
    for run in alone:
        settings = run.configuration.settings
        source = sources[pathlib.Path(settings["load_masks_from"]).name]
        assert (source.point, source.seed) == (run.point, run.seed)
        is_ticket = run.experiment == "lottery"
        assert ("load_weights_from" in settings) == is_ticket
        same_seed = settings["seed"] == source.configuration.settings["seed"]
        assert same_seed == is_ticket


def compared(*pairs):
    return [Comparison("x", first, second) for first, second in pairs]


BETTER, WORSE, SAME = ([3, 4], [1, 2]), ([1, 2], [3, 4]), ([1, 3], [2, 4])


@pytest.mark.parametrize(
    ("pairs", "expected", "holds"),
    [
        ([BETTER] * 3, 1, "yes"),
        ([BETTER, BETTER, SAME], 1, "yes"),
        ([BETTER, BETTER, WORSE], 1, "partly"),
        ([BETTER, SAME, SAME], 1, "partly"),
        ([SAME] * 3, 1, "not seen"),
        ([WORSE, SAME], 1, "not seen or worse"),
        ([WORSE] * 2, 1, "no"),
        ([SAME] * 3, 0, "yes"),
        ([SAME, SAME, BETTER], 0, "yes"),
        ([SAME, BETTER, BETTER], 0, "partly"),
        ([WORSE] * 2, 0, "no"),
        ([], 1, "not seen"),
    ],
)
def test_a_claim_is_judged_over_its_points(pairs, expected, holds):
    assert tally(compared(*pairs), expected)[0] in holds


def test_figures_are_differences_of_medians_in_bold_where_they_are_clear():
    _, figures = tally(compared(([1, 2, 9], [0, 0.5, 0.9]), ([1, 2], [0, 4])), 1)
    assert figures == "x **+1.50**, x -0.50"


def write_run(folder, run, quality, sparsity, layers=(("a/kernel", 0.5),)):
    """What the study reads of a finished run."""
    settings = {"technique": run.experiment, "train_steps": "100"}
    own = RunFolder(folder / run.configuration.name, settings)
    own.start()
    own.layers.write_text(
        "name,size,sparsity\n"
        + "".join(f"{name},100,{value}\n" for name, value in layers)
    )
    result = dict.fromkeys(
        ("steps", "parameters", "nonzero_parameters", "flops", "sparse_flops"), 100
    )
    result |= {
        "model": "net",
        "dataset": "x",
        "quality_metric": "top1",
        "quality": quality,
        "sparsity": sparsity,
        "seed": run.seed,
        "training_flops": 300,
        "dense_training_flops": 600,
    }
    own.result.write_text(json.dumps(result))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of runs whose quality falls with sparsity, by technique."""
    folder = tmp_path_factory.mktemp("study")
    lab = LABS["mnist1d"]
    fall = dict.fromkeys(EXPERIMENTS, 0.2) | {"dense": 0.0, "random": 0.6, "vd": 0.1}
    runs = runs_of(lab)
    for run in runs:
        # Weights of penalties become sparsities between those of pruning.
        weights = {"vd": lab.kl_weights, "l0": lab.l0_weights}
        technique = run.experiment.removeprefix("random_")
        sparsity = run.point
        if technique in weights:
            sparsity = 0.4 + 0.09 * weights[technique].index(run.point)
        quality = 0.9 - fall[run.experiment] * sparsity + 0.001 * run.seed
        layers = [
            ("conv1/kernel", sparsity / 2),
            ("conv2/kernel", sparsity),
            ("logits/kernel", sparsity * 0.9),
        ]
        write_run(folder, run, quality, sparsity, layers)
    return Results(runs, folder)


def test_outcomes_are_by_sparsity_with_a_quality_of_each_seed_in_percent(results):
    outcomes = results["magnitude"]
    assert [outcome.at for outcome in outcomes] == [0.5, 0.7, 0.8, 0.9, 0.95, 0.98]
    assert sorted(outcomes[0].qualities) == pytest.approx([80.0, 80.1, 80.2])
    assert outcomes[0].layers == {
        "conv1/kernel": 0.25,
        "conv2/kernel": 0.5,
        "logits/kernel": 0.45,
    }
    nearest = results.nearest("magnitude", 0.89)
    assert (nearest.sparsity, nearest.quality) == (0.9, pytest.approx(72.1))


def test_between_points_quality_is_linear_in_the_logarithm_of_the_density(results):
    outcomes = results["magnitude"]
    for sparsity in (0.5, 0.6, 0.88, 0.98):
        expected = np.interp(
            -np.log(1 - sparsity),
            [-np.log(1 - outcome.sparsity) for outcome in outcomes],
            [sorted(outcome.qualities)[1] for outcome in outcomes],
        )
        found = results.qualities_at("magnitude", sparsity)
        assert sorted(found)[1] == pytest.approx(expected)
    assert results.qualities_at("magnitude", 0.45) is None
    assert results.qualities_at("magnitude", 0.99) is None


def test_experiments_are_compared_where_both_were_run(results):
    found = at_targets("x", results, "magnitude", "random")
    assert len(found) == 6
    assert found[0].where == "x 50 %"
    assert found[0].difference == pytest.approx(100 * 0.4 * 0.5)
    assert all(comparison.sign == 1 for comparison in found)
    # Two of variational dropout's points are below all of pruning's.
    assert len(at_sparsities("x", results, "magnitude", "vd")) == 4


def test_claims_are_judged_from_what_came_out(results):
    verdicts = {v.claim: v for v in judge({"x": results})}
    assert verdicts["Random pruning is worse than magnitude pruning"].holds == "yes"
    assert verdicts["and the gap grows with sparsity"].holds == "yes"
    assert verdicts["Leaving the first layer dense helps magnitude pruning"].holds == (
        "not seen"
    )
    spared = verdicts["variational dropout spares the first and the last layer"]
    assert spared.holds == "yes"
    behind = "Magnitude pruning is comparable to or better than variational dropout"
    assert verdicts[behind].holds == "no"
    assert verdicts[
        "Augmented initial values make no difference (scratch-e)"
    ].holds == ("yes")


def test_the_page_has_all_that_was_run_and_its_pictures(results, tmp_path):
    verdicts = [Verdict("A claim", "yes", "x +1.00")]
    page.write(
        {"mnist1d": results}, {"mnist1d": LABS["mnist1d"]}, verdicts, {}, tmp_path
    )
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| A claim | yes | x +1.00 |" in text
    for name in EXPERIMENTS.values():
        assert f"| {name} |" in text
    pictures = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert len(pictures) == 6
    assert all((tmp_path / picture).stat().st_size for picture in pictures)

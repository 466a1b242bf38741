"""The study: its runs, and how claims are judged. Its runs themselves take hours."""

import copy
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import scipy.stats

from state_of_sparsity.bin.sweep import check
from state_of_sparsity.models.sweeps.configurations import Configuration
from state_of_sparsity.models.training.run_folder import RunFolder
from study import page
from study.claims import (
    Comparison,
    at_flops,
    at_sparsities,
    at_targets,
    grows,
    is_better,
    is_no_different,
    is_not_worse,
    judge,
    pooled_chance,
)
from study.contenders import AT_INITIALIZATION, CONTENDERS, TRIALS
from study.labs import LABS
from study.plan import EXPERIMENTS, LATER, RANDOM_MASKS, SEED_ALONE, Run, stages
from study.results import Results, Trial, tried
from tests.models.analysis.conftest import write_run

FOLDER = pathlib.Path("runs/study/x")


def first_is_best(run):
    del run
    return 0.0


def all_of(lab, merit=first_is_best):
    return [run for stage in stages(lab, FOLDER, merit) for run in stage]


def runs_of(lab):
    """Those that are compared, without the trials."""
    return [run for run in all_of(lab) if run.trial is None]


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS.values(), ids=lambda lab: lab.name)
def test_each_run_is_another_one_and_has_flags_that_its_binary_takes(lab):
    runs = runs_of(lab)
    assert len({run.configuration.name for run in runs}) == len(runs)
    for run in runs:
        assert run.experiment in EXPERIMENTS
        if "/" not in run.configuration.settings.get("budget", ""):
            check(run.configuration)


def test_the_whole_grid_is_run_on_mnist1d():
    lab = LABS["mnist1d"]
    runs = runs_of(lab)
    for experiment in EXPERIMENTS:
        own = [run for run in runs if run.experiment == experiment]
        assert {run.seed for run in own} == set(range(lab.seeds)), experiment
        points = 1 if experiment == "dense" else 4 if is_later(experiment) else 6
        assert len(own) == points * lab.seeds, experiment
    later = {run.point for run in runs if run.experiment == "feather"}
    assert later == {0.8, 0.9, 0.95, 0.98}


def is_later(experiment):
    return experiment in LATER or experiment.startswith("random_masks_")


def test_each_technique_has_as_many_trials_or_points_of_its_own():
    lab = LABS["mnist1d"]
    trials = [run for run in all_of(lab) if run.trial is not None]
    for name, contender in CONTENDERS.items():
        own = [run for run in trials if run.experiment == name]
        assert len(own) == len(contender.trials), name
        if name not in AT_INITIALIZATION:
            assert len(own or contender.points) == TRIALS, name
        assert len({run.configuration.name for run in own}) == len(own), name
    assert {run.seed for run in trials} == {0}
    for run in trials:
        check(run.configuration)


def test_the_best_trial_in_validation_gives_the_settings_of_a_technique():
    """The run that was tried is one of the runs that are compared."""
    wanted = {"begin_step": 150, "end_step": 1125}

    def by(run):
        return float(run.trial == wanted)

    runs = all_of(LABS["mnist1d"], by)
    (best,) = [r for r in runs if r.experiment == "feather" and r.trial == wanted]
    own = [r for r in runs if r.experiment == "feather" and r.trial is None]
    for run in own:
        assert {n: str(v) for n, v in wanted.items()}.items() <= (
            run.configuration.settings.items()
        )
    assert best.configuration.name in {run.configuration.name for run in own}


def test_a_trial_that_meets_its_target_is_ahead_of_a_better_one(tmp_path):
    """Within a point of it; of those that do not, the nearest is chosen."""
    ends = [(0.15, 0.95), (0.93, 0.9), (0.941, 0.5), (0.95, 0.6), (0.955, 0.4)]
    runs = []
    for place, (sparsity, quality) in enumerate(ends):
        name = Configuration("train_resnet50", {"seed": str(place)})
        run = Run("l0_steered", 0.95, 0, name, {"ramp_length": place})
        folder = RunFolder(tmp_path / run.configuration.name)
        folder.path.mkdir()
        result = {"sparsity": sparsity, "target_sparsity": 0.95}
        folder.result.write_text(json.dumps(result))
        (folder.path / "metrics.csv").write_text(f"step,quality\n10,{quality}\n")
        runs.append(run)
    assert [trial.is_chosen for trial in tried(runs, tmp_path)] == [0, 0, 0, 1, 0]
    (nearest,) = [trial for trial in tried(runs[:2], tmp_path) if trial.is_chosen]
    assert (nearest.sparsity, nearest.quality) == (0.93, 0.9)


def test_whole_channels_have_no_random_masks_beside_them():
    assert {"channels", "lasso"} <= EXPERIMENTS.keys() - RANDOM_MASKS.keys()
    assert {"random_masks_channels", "random_masks_lasso"}.isdisjoint(EXPERIMENTS)


def test_random_masks_are_those_of_the_run_at_other_places():
    runs = {run.configuration.name: run for run in runs_of(LABS["mnist1d"])}
    found = [r for r in runs.values() if r.experiment == RANDOM_MASKS["rigl"]]
    for run in found:
        settings = run.configuration.settings
        source = runs[pathlib.Path(settings["load_masks_from"]).name]
        assert source.experiment == "rigl"
        assert (source.point, source.seed) == (run.point, run.seed)
        assert settings["shuffle_masks"] == "within_layer"


def test_lottery_tickets_differ_from_other_runs_alone_in_initial_values_only():
    lab = LABS["mnist1d"]
    runs = runs_of(lab)
    sources = {r.configuration.name: r for r in runs if r.experiment == "magnitude"}
    alone = [
        r
        for r in runs
        if "load_masks_from" in r.configuration.settings and not is_later(r.experiment)
    ]
    assert len(alone) == 6 * 6 * lab.seeds
    for run in alone:
        settings = run.configuration.settings
        source = sources[pathlib.Path(settings["load_masks_from"]).name]
        assert (source.point, source.seed) == (run.point, run.seed)
        is_ticket = run.experiment == "lottery"
        assert ("load_weights_from" in settings) == is_ticket
        assert settings["seed"] == str(source.seed + SEED_ALONE)


def compared(*pairs):
    return [Comparison("x", first, second) for first, second in pairs]


BETTER, WORSE = ([4, 5, 6], [1, 2, 3]), ([1, 2, 3], [4, 5, 6])
SAME = ([1, 3, 5], [2, 3.5, 4])


@pytest.mark.parametrize(
    ("claim", "pairs", "holds"),
    [
        # 1 of 20 orders of six numbers: no chance is below it at one point.
        (is_better, [BETTER], "yes"),
        (is_better, [BETTER] * 3, "yes"),
        (is_better, [BETTER, BETTER, BETTER, SAME], "yes"),
        (is_better, [BETTER] * 4 + [WORSE], "partly"),
        (is_better, [BETTER, WORSE], "not seen"),
        (is_better, [SAME] * 4, "not seen"),
        (is_better, [WORSE] * 2, "no"),
        (is_better, [], "-"),
        (is_not_worse, [BETTER], "yes"),
        (is_not_worse, [SAME] * 4, "yes"),
        (is_not_worse, [BETTER, WORSE], "partly"),
        (is_not_worse, [WORSE] * 3, "no"),
        (is_not_worse, [WORSE] * 5 + [BETTER], "partly"),
        (is_not_worse, [], "-"),
        (is_no_different, [SAME] * 4, "yes"),
        (is_no_different, [BETTER], "yes"),
        (is_no_different, [BETTER] * 3, "no"),
        (is_no_different, [WORSE] * 3, "no"),
        (is_no_different, [], "-"),
    ],
)
def test_a_claim_is_judged_over_its_points(claim, pairs, holds):
    assert claim(compared(*pairs)).holds == holds


def test_chances_are_those_of_the_orders_of_six_numbers():
    (better,) = compared(BETTER)
    assert better.chance("greater") == pytest.approx(1 / 20)
    assert better.chance("less") == pytest.approx(1)
    # Stouffer: the sum of the normal quantiles over the root of their number.
    quantile = scipy.stats.norm.isf(1 / 20)
    expected = scipy.stats.norm.sf(3 * quantile / np.sqrt(3))
    assert pooled_chance([better] * 3, "greater") == pytest.approx(expected)


def test_where_there_is_nothing_little_is_found():
    """Verdicts on 200 claims of six points without any difference.

    At the level of 0.05 per claim, 10 are expected; more than 30 have a probability
    below 1e-7.
    """
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        seeds = rng.normal(size=(6, 2, 3))
        found += is_better(compared(*map(tuple, seeds))).holds in ("yes", "partly")
    assert found <= 30


def test_figures_are_differences_of_medians_in_bold_where_they_are_clear():
    found = is_better(compared(([1, 2, 9], [0, 0.5, 0.9]), ([1, 2], [0, 4])))
    assert found.figures == "x **+1.50**, x -0.50"


def test_a_gap_grows_if_it_has_the_order_of_sparsity():
    def gaps(*differences):
        return grows(compared(*(([gap], [0]) for gap in differences))).holds

    assert gaps(1, 2, 3, 5) == "yes"
    assert gaps(5, 3, 2, 1) == "no"
    assert gaps(1, 2) == "-"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of runs whose quality falls with sparsity, by technique."""
    folder = tmp_path_factory.mktemp("study")
    lab = LABS["mnist1d"]
    fall = dict.fromkeys(EXPERIMENTS, 0.2) | {"dense": 0.0, "random": 0.6, "vd": 0.1}
    fall["feather"] = 0.1
    fall["channels"] = fall["lasso"] = 0.5
    runs = runs_of(lab)
    for run in runs:
        # Weights of penalties become sparsities between those of pruning.
        weights = {"vd": lab.kl_weights, "l0": lab.l0_weights}
        technique = run.experiment.removeprefix("random_")
        sparsity = run.point
        if technique in weights:
            sparsity = 0.4 + 0.09 * weights[technique].index(run.point)
        if run.experiment in ("str", RANDOM_MASKS["str"], "lasso"):
            sparsity = 0.9 + run.point
        quality = 0.9 - fall[run.experiment] * sparsity + 0.001 * run.seed
        path = folder / run.configuration.name
        flags = {"technique": run.experiment, "train_steps": 100}
        layers = {"conv1/kernel": sparsity / 2, "logits/kernel": sparsity * 0.9}
        # Channels that go take inputs of the next layer along.
        left = {"smaller_flops": 10_000 * (1 - sparsity) ** 2, "smaller_parameters": 9}
        result = left if run.experiment == "channels" else {}
        write_run(path, quality, sparsity, run.seed, flags, result, layers)
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
    assert nearest.sparsity.item() == 0.9
    assert nearest.quality.item() == pytest.approx(72.1)


def test_between_points_quality_is_linear_in_the_logarithm_of_the_density(results):
    outcomes = [*results["dense"], *results["magnitude"]]
    for sparsity in (0.0, 0.3, 0.5, 0.6, 0.88, 0.98):
        expected = np.interp(
            -np.log(1 - sparsity),
            [-np.log(1 - outcome.sparsity) for outcome in outcomes],
            [sorted(outcome.qualities)[1] for outcome in outcomes],
        )
        found = results.qualities_at("magnitude", sparsity)
        assert sorted(found)[1] == pytest.approx(expected)
    assert results.qualities_at("magnitude", 0.99) is None


def test_experiments_are_compared_where_both_were_run(results):
    found = at_targets(results, "magnitude", "random")
    assert len(found) == 6
    assert found[0].where == "50\N{NO-BREAK SPACE}%"
    assert found[0].difference == pytest.approx(100 * 0.4 * 0.5)
    assert all(comparison.is_clear for comparison in found)
    assert len(at_sparsities(results, "magnitude", "vd")) == 6
    assert len(at_sparsities(results, "magnitude", "vd", high=0.7)) == 4
    assert len(at_sparsities(results, "magnitude", "vd", low=0.7)) == 2


def test_channels_are_compared_at_the_flops_of_the_smaller_model(results):
    """FLOPs of single weights are as their density; what channels leave, its square."""
    outcomes = results["channels"]
    assert [o.flops_share for o in outcomes] == pytest.approx([0.49, 0.25, 0.09, 0.04])
    found = at_flops(results, "magnitude", "channels")
    assert [c.where for c in found] == [
        f"FLOPs {share}\N{NO-BREAK SPACE}%" for share in (49, 25, 9, 4)
    ]
    places = [*results["dense"], *results["magnitude"]]
    for comparison, outcome in zip(found, outcomes, strict=True):
        # Densities fall along the table, as FLOPs do.
        expected = np.interp(
            -np.log(outcome.flops_share),
            [-np.log(1 - place.sparsity) for place in places],
            [np.median(place.qualities) for place in places],
        )
        assert np.median(comparison.first) == pytest.approx(expected)
        assert comparison.second == outcome.qualities
    assert at_flops(results, "magnitude", "nothing") == []


def test_what_was_left_dense_is_not_compared(results):
    some = copy.copy(results)
    dense = [
        dataclasses.replace(outcome, runs=outcome.runs.assign(sparsity=0.0))
        for outcome in results["vd"]
    ]
    some._outcomes = {**results._outcomes, "vd": dense}
    assert at_sparsities(some, "magnitude", "vd") == []
    assert is_not_worse([]).holds == "-"


def test_claims_are_judged_from_what_came_out(results):
    found = {
        claim.text: by_lab["x"].holds for claim, by_lab in judge({"x": results}).items()
    }
    expected = {
        "Random pruning is worse than magnitude pruning": "yes",
        "and the gap grows with sparsity": "yes",
        "Leaving the first layer dense helps magnitude pruning": "not seen",
        "Variational dropout spares the first and the last layer": "yes",
        "Magnitude pruning is comparable to variational dropout, or better": "no",
        "Magnitude pruning is comparable to L0 regularization, or better": "yes",
        "Augmented initial values do not help (scratch-e)": "yes",
        "Later: Feather, global is better than magnitude pruning with one threshold": (
            "yes"
        ),
        "Later: ST-3, global is better than magnitude pruning with one threshold": (
            "not seen"
        ),
        "Later: RigL is comparable to magnitude pruning, layer by layer": "yes",
        "Later: Feather, global is better than random masks with as many weights in "
        "each layer": "yes",
        "Later: magnitude pruning with one threshold is better than SNIP, global": (
            "not seen"
        ),
        "Later: SNIP, global is no worse with masks that are shuffled within each "
        "layer": "yes",
        "Beyond the paper: at equal FLOPs, single weights are ahead of whole channels "
        "(magnitude pruning; magnitude pruning, channels)": "yes",
        # It is of images.
        "On the Transformer, a lottery ticket is ahead of scratch-e": "-",
    }
    assert {text: found[text] for text in expected} == expected


def test_the_page_has_all_that_was_run_and_its_pictures(results, tmp_path):
    judgements = judge({"mnist1d": results})
    labs = {"mnist1d": LABS["mnist1d"]}
    trials = [
        Trial("feather", "end_step=750", 0.949, 0.9123, True),
        Trial("feather", "end_step=1125", 0.95, 0.9, False),
    ]
    page.write(
        {"mnist1d": results},
        labs,
        {"mnist1d": trials},
        judgements,
        {"commit": "abc"},
        tmp_path,
    )
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "| Random pruning is worse than magnitude pruning | yes |" in text
    assert "- commit: abc" in text
    assert "| Feather, global | end_step=750 | 94.9% | **0.9123** |" in text
    assert "| Feather, global | end_step=1125 | 95.0% | 0.9 |" in text
    for name in EXPERIMENTS.values():
        assert re.search(f"[|] {name} +[|]", text)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
    assert len([link for is_picture, link in links if is_picture]) == 10
    # Other links are to pages that are there already.
    written = [link for _, link in links if link.startswith("assets/")]
    assert len(written) == 11
    assert all((tmp_path / link).stat().st_size for link in written)
    for line in text.splitlines():
        assert line.startswith("|") or len(line) <= 88

"""The recipes: published settings as flagfiles."""

import csv
import dataclasses
import importlib.util
import math
import pathlib

import numpy as np
import pytest
from absl import flags

import state_of_sparsity as sos
import state_of_sparsity.bin
from state_of_sparsity.bin import runs

FOLDER = pathlib.Path(state_of_sparsity.bin.__file__).parent / "recipes"


BINARIES = {"resnet50": "train_resnet50", "transformer": "train_transformer"}


def published(model="resnet50"):
    with (FOLDER / "published_results.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["model"] == model]


def settings(row):
    words = row["hyperparameters"].split()
    return dict(word.split("=") for word in words if "=" in word)


def recipe(name, *further):
    binary = BINARIES[name.partition("_")[0]]
    values = flags.FlagValues()
    runs.define_run_flags(binary, values)
    values([binary, f"--flagfile={FOLDER / name}.flags", *further])
    return runs.run_from_flags(binary, values)


def alone(model):
    """The rows of the networks that were trained alone, and how each is called."""
    with (FOLDER / "published_scratch_and_lottery.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model]
    for row in rows:
        name = f"{model}_{row['experiment']}"
        if row["experiment"] == "scratch_b" and model == "resnet50":
            name += f"_{row['learning_rate_schedule']}"
        if row["initialization"] == "augmented":
            name += "_augmented"
        yield pytest.param(row, name, id=f"{name}_{row['sparsity']}")


@pytest.fixture
def masks(tmp_path):
    """The flag of a file of masks."""
    sos.save_masks(tmp_path / "masks.npz", {"a/kernel": np.array([True, False])})
    return f"--load_masks_from={tmp_path / 'masks.npz'}"


def check_alone(run, row):
    assert run.sparsification.name == "fixed_mask"
    assert run.start.load_weights_from is None
    assert run.start.init == (
        "sparse" if row["initialization"] == "augmented" else None
    )


def mask_recipe(name):
    """The recipe that finds the masks of another one, as its comment says."""
    needs = (FOLDER / f"{name}.flags").read_text().splitlines()[1]
    assert needs.startswith("# Needs --load_masks_from")
    assert ("--load_weights_from" in needs) == ("lottery" in name)
    return needs.rpartition(" ")[2].removesuffix(".flags")


def check_masks(name, row):
    """The masks are those of the published runs, with their regularization."""
    run = recipe(mask_recipe(name))
    technique = run.sparsification.technique
    assert run.sparsification.name == "magnitude_pruning"
    assert technique.sparsity == float(row["sparsity"])
    assert technique.begin_step == int(row["mask_begin_step"])
    assert technique.end_step == int(row["mask_end_step"])
    assert technique.frequency == int(row["mask_frequency"])
    return run.options


def rows_of(technique):
    return [
        pytest.param(row, id=row["sparsity"])
        for row in published()
        if row["technique"] == technique
    ]


def check_schedule(run, row):
    expected = settings(row)
    technique = run.sparsification.technique
    assert technique.begin_step == int(expected["begin"])
    assert technique.end_step == int(expected["end"])
    assert technique.frequency == int(expected["frequency"])
    assert run.options.label_smoothing == float(expected["label_smoothing"])


def check_standard(run, weight_decay=1e-4):
    options = run.options
    assert (options.train_steps, options.batch_size) == (128_000, 1024)
    assert (options.learning_rate, options.warmup_epochs) == (0.1, 5.0)
    assert options.decay_epochs == (30.0, 60.0, 80.0)
    assert (options.dataset, options.depth, options.width) == ("imagenet2012", 50, 1.0)
    assert options.weight_decay == weight_decay
    assert options.batch_norm_batch == 128
    assert not run.sparsification.overrides


def test_recipes_are_what_the_generator_makes_of_the_published_table():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    on_disk = {path.name: path.read_text() for path in FOLDER.glob("*.flags")}
    assert on_disk == generator.recipes()


@pytest.mark.parametrize("technique", ["magnitude_pruning", "random_pruning"])
def test_each_published_pruning_run_has_a_recipe(technique):
    for row in published():
        if row["technique"] == technique:
            run = recipe(f"resnet50_{technique}_{row['sparsity']}")
            assert run.sparsification.name == technique
            assert run.sparsification.target_sparsity == float(row["sparsity"])
            check_schedule(run, row)
            check_standard(run)


@pytest.mark.parametrize("row", rows_of("variational_dropout"))
def test_each_published_run_of_variational_dropout_has_a_recipe(row):
    run = recipe(f"resnet50_variational_dropout_{row['sparsity']}")
    expected, technique = settings(row), run.sparsification.technique
    assert run.sparsification.name == "variational_dropout"
    assert technique.kl_weight == float(expected["kl_weight"])
    assert technique.log_alpha_threshold == float(expected["log_alpha_threshold"])
    assert technique.ramp_begin == int(expected["begin"])
    assert technique.ramp_begin + technique.ramp_length == int(expected["end"])
    assert (technique.initial_log_sigma2, technique.ramp) == (-15.0, "linear")
    assert technique.shared_positions
    assert run.options.label_smoothing == float(expected["label_smoothing"])
    check_standard(run)


@pytest.mark.parametrize(
    ("log_alpha", "least", "largest"),
    [
        (4.6, 3.27826e-3, 3.42656e-3),
        (2.95, 6.94679e-4, 7.10290e-4),
        (2.197, 3.12215e-4, 3.86366e-4),
        (0.847, 1.24886e-4, 1.39716e-4),
    ],
)
def test_l0_regularization_has_the_middle_of_what_was_tried(log_alpha, least, largest):
    run = recipe(f"resnet50_l0_regularization_log_alpha_{log_alpha}")
    technique = run.sparsification.technique
    assert run.sparsification.name == "l0_regularization"
    assert technique.initial_log_alpha == log_alpha
    assert technique.l0_weight == pytest.approx((least + largest) / 2, rel=1e-5)
    assert technique.ramp == "linear"
    # 1e-4 over the probability that a gate is open in the beginning.
    keep = 1 / (1 + math.exp(-log_alpha))
    assert run.options.weight_decay == pytest.approx(1e-4 / keep, rel=1e-4)
    assert run.options.label_smoothing == 0.0
    check_standard(run, run.options.weight_decay)


def test_there_are_four_recipes_of_l0_regularization_on_resnet50():
    assert len(list(FOLDER.glob("resnet50_l0*.flags"))) == 4


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.flags")), ids=lambda p: p.stem)
def test_a_recipe_says_its_label_smoothing(path):
    smoothing = [x for x in path.read_text().splitlines() if "--label_smoothing=" in x]
    assert len(smoothing) == 1


@pytest.mark.parametrize("row", rows_of("magnitude_pruning_extended"))
def test_each_extended_run_has_a_recipe_with_denser_first_and_last_layers(row):
    run = recipe(f"resnet50_magnitude_pruning_extended_{row['sparsity']}")
    check_schedule(run, row)
    assert run.sparsification.name == "magnitude_pruning"
    assert run.sparsification.overrides == {"conv1": None, "logits": 0.8}
    options = run.options
    assert (options.train_steps, options.batch_size) == (48_000, 4096)
    # As many times the images, so as many times the epochs.
    assert options.train_steps * options.batch_size == 1.5 * 128_000 * 1024
    assert options.decay_epochs == (1.5 * 30, 1.5 * 60, 1.5 * 80)
    assert options.warmup_epochs == 5.0
    # The targets, published to two digits, meet the published sparsity. No kernels
    # are the 53,120 gammas and betas and the 1,000 biases.
    kernels, first, last = 25_557_032 - 53_120 - 1000, 7 * 7 * 3 * 64, 2048 * 1000
    target = run.sparsification.target_sparsity
    zeros = target * (kernels - first - last) + 0.8 * last
    assert zeros / kernels == pytest.approx(float(row["sparsity"]), abs=0.005)


def test_the_dense_run_has_a_recipe():
    run = recipe("resnet50_dense")
    assert run.sparsification.technique is None
    check_standard(run)
    assert run.options.label_smoothing == 0.0


@pytest.mark.parametrize(("row", "name"), alone("resnet50"))
def test_each_resnet50_that_was_trained_alone_has_a_recipe(row, name, masks):
    name += f"_{row['sparsity']}"
    run = recipe(name, masks)
    check_alone(run, row)
    options, times = run.options, 2 if row["experiment"] == "scratch_b" else 1
    assert (options.train_steps, options.batch_size) == (times * 128_000, 1024)
    stretch = 2 if "scratch_b_scaled" in name else 1
    assert options.warmup_epochs == 5.0 * stretch
    assert options.decay_epochs == (30.0 * stretch, 60.0 * stretch, 80.0 * stretch)
    assert (options.learning_rate, options.weight_decay) == (0.1, 1e-4)
    assert f"label_smoothing={options.label_smoothing}" == row["regularization"]
    found = check_masks(name, row)
    check_standard(recipe(mask_recipe(name)))
    # As the run that found the masks, and whose initial weights a ticket has.
    assert options.label_smoothing == found.label_smoothing


@pytest.mark.parametrize(("row", "name"), alone("transformer"))
def test_each_transformer_that_was_trained_alone_has_a_recipe(row, name, masks):
    name += f"_{row['sparsity']}"
    run = recipe(name, masks)
    check_alone(run, row)
    found = check_masks(name, row)
    times = 2 if row["experiment"] == "scratch_b" else 1
    assert run.options == dataclasses.replace(found, train_steps=times * 500_000)
    assert run.options.dropout == (0.1 if "dropout" in row["regularization"] else 0.0)
    smoothing = 0.1 if "label_smoothing" in row["regularization"] else 0.0
    assert run.options.label_smoothing == smoothing


def test_a_lottery_ticket_takes_the_initial_weights_of_a_run(masks, tmp_path):
    weights = f"--load_weights_from={tmp_path}"
    run = recipe("resnet50_lottery_ticket_0.90", masks, weights)
    assert run.start.load_weights_from == str(tmp_path)
    # Of step 0.
    assert run.start.weights_at_step is None


def test_masks_come_from_best_runs_but_for_one_with_settings_of_its_own():
    found = {
        mask_recipe(f"{name}_{row['sparsity']}")
        for model in BINARIES
        for row, name in (parameters.values for parameters in alone(model))
    }
    own = [name for name in found if "masks" in name]
    assert own == ["resnet50_magnitude_pruning_masks_0.95"]
    assert len(found) == 6 + 7


@pytest.mark.parametrize(("row", "name"), [*alone("resnet50"), *alone("transformer")])
def test_a_recipe_says_what_was_published_of_networks_trained_alone(row, name):
    comment = (FOLDER / f"{name}_{row['sparsity']}.flags").read_text().splitlines()[0]
    unit = "BLEU" if row["metric"] == "bleu" else "% top-1"
    assert comment.startswith(f"# Published: {row['mean']} {unit} at a sparsity of ")
    assert f"{row['sparsity']}, mean of {row['runs']} runs" in comment
    assert ("1 failed" in comment) == (row["failed_runs"] == "1")
    assert "arXiv 1902.09574" in comment


BEST = [
    path
    for path in sorted(FOLDER.glob("*.flags"))
    if not any(x in path.stem for x in ("lottery", "scratch", "masks"))
]


@pytest.mark.parametrize("path", BEST, ids=lambda p: p.stem)
def test_a_recipe_says_what_was_published_and_where(path):
    comment = path.read_text().splitlines()[0]
    assert comment.startswith("# Published: ")
    assert "arXiv 1902.09574" in comment
    if path.stem.startswith("resnet50_l0"):
        assert "no sparse model that kept its accuracy" in comment
        return
    model, _, name = path.stem.partition("_")
    technique, _, sparsity = name.rpartition("_")
    rows = [
        row
        for row in published(model)
        if (row["technique"], row["sparsity"]) in ((technique, sparsity), (name, "0.0"))
    ]
    mean = sum(float(row["score"]) for row in rows) / len(rows)
    assert f" {mean:.2f} {'BLEU' if model == 'transformer' else '% top-1'}" in comment


def check_base_transformer(run):
    options = run.options
    assert options.dataset == "wmt14_translate/de-en"
    assert (options.layers, options.width, options.feed_forward) == (6, 512, 2048)
    assert (options.heads, options.vocabulary_size) == (8, 33_288)
    assert (options.train_steps, options.warmup_steps) == (500_000, 8_000)
    assert (options.tokens_per_replica, options.packed_length) == (2048, 256)
    assert (options.rows_per_replica, options.extra_length) == (8, 100)
    assert (options.learning_rate, options.beams, options.alpha) == (2.0, 4, 0.6)
    assert not run.sparsification.overrides


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row['technique']}-{row['sparsity']}")
        for row in published("transformer")
        if row["technique"] != "dense"
    ],
)
def test_each_published_run_of_the_transformer_has_a_recipe(row):
    run = recipe(f"transformer_{row['technique']}_{row['sparsity']}")
    check_base_transformer(run)
    expected, technique = settings(row), run.sparsification.technique
    assert run.sparsification.name == row["technique"]
    assert run.options.dropout == float(expected["dropout"])
    assert run.options.label_smoothing == float(expected["label_smoothing"])
    if "pruning" in row["technique"]:
        assert technique.sparsity == float(row["sparsity"])
        assert technique.begin_step == int(expected["begin"])
        assert technique.end_step == int(expected["end"])
        assert technique.frequency == int(expected["frequency"])
        return
    assert technique.ramp == expected["ramp"]
    assert technique.ramp_begin == int(expected["begin"])
    assert technique.ramp_length == int(expected["length"])
    assert technique.penalty_weight == float(
        expected.get("kl_weight", expected.get("l0_weight"))
    )
    if "log_alpha_threshold" in expected:
        assert technique.log_alpha_threshold == float(expected["log_alpha_threshold"])
        assert technique.initial_log_sigma2 == -10.0
        assert technique.shared_positions
    else:
        assert technique.initial_log_alpha == 2.197


def test_the_dense_transformer_has_a_recipe():
    run = recipe("transformer_dense")
    assert run.sparsification.technique is None
    check_base_transformer(run)
    assert (run.options.dropout, run.options.label_smoothing) == (0.1, 0.1)

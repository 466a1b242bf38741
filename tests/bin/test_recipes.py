"""The recipes: published settings as flagfiles."""

import csv
import importlib.util
import math
import pathlib

import numpy as np
import pytest

import state_of_sparsity as sos
import state_of_sparsity.bin
from tests.bin.conftest import run_of

FOLDER = pathlib.Path(state_of_sparsity.bin.__file__).parent / "recipes"
BINARIES = {"resnet50": "train_resnet50", "transformer": "train_transformer"}
# Rows of the table of results that have a table of their own.
ALONE = ("lottery_ticket", "scratch_b", "scratch_e")
UNITS = {"resnet50": "% top-1", "transformer": "BLEU"}
# What the published runs have in common.
OPTIONS = {
    "resnet50": {
        "dataset": "imagenet2012",
        "depth": 50,
        "width": 1.0,
        "train_steps": 128_000,
        "batch_size": 1024,
        "learning_rate": 0.1,
        "warmup_epochs": 5.0,
        "decay_epochs": (30.0, 60.0, 80.0),
        "weight_decay": 1e-4,
        "batch_norm_batch": 128,
    },
    "transformer": {
        "dataset": "wmt14_translate/de-en",
        "layers": 6,
        "width": 512,
        "feed_forward": 2048,
        "heads": 8,
        "vocabulary_size": 33_288,
        "train_steps": 500_000,
        "warmup_steps": 8_000,
        # 2048 on each of 8 cores.
        "tokens_per_step": 8 * 2048,
        "packed_length": 256,
        "extra_length": 100,
        "learning_rate": 2.0,
        "beams": 4,
        "alpha": 0.6,
    },
}


def table(name):
    with (FOLDER / f"published_{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def recipe(name, *further):
    binary = BINARIES[name.partition("_")[0]]
    return run_of(binary, f"--flagfile={FOLDER / name}.flags", *further)


def comments(name):
    return (FOLDER / f"{name}.flags").read_text().splitlines()[:2]


def check_options(run, model, **changes):
    expected = OPTIONS[model] | changes
    assert {name: getattr(run.options, name) for name in expected} == expected


def check_technique(technique, model, row):
    """It has the hyperparameters of a row of the table."""
    words = [word.split("=") for word in row["hyperparameters"].split()]
    expected = dict(word for word in words if len(word) == 2)
    begin = int(expected["begin"])
    if "frequency" in expected:
        check_ramp(technique, begin, int(expected["end"]), int(expected["frequency"]))
        return expected
    end = int(expected.get("end", begin + int(expected.get("length", 0))))
    assert technique.ramp == expected.get("ramp", "linear")
    assert technique.ramp_begin == begin
    assert technique.ramp_begin + technique.ramp_length == end
    if "kl_weight" in expected:
        assert technique.kl_weight == float(expected["kl_weight"])
        assert technique.log_alpha_threshold == float(expected["log_alpha_threshold"])
        assert technique.initial_log_sigma2 == (-15 if model == "resnet50" else -10)
        assert technique.shared_positions
    else:
        assert technique.l0_weight == float(expected["l0_weight"])
        assert technique.initial_log_alpha == 2.197
    return expected


def check_ramp(technique, begin, end, frequency):
    """Renewals are those of the published code, and masked weights return.

    There, masks are renewed at a step from the beginning to the end of the ramp if it
    is at least `frequency` after the last renewal, which at first is 0.
    """
    steps = [max(begin, frequency)]
    while steps[-1] + frequency <= end:
        steps.append(steps[-1] + frequency)
    schedule = technique.schedule()
    assert schedule.renewals() == steps
    assert schedule.done(begin) == 0.0 < schedule.done(end - 1) < schedule.done(end)
    # Those that go in a random order return in none.
    returns = isinstance(technique, sos.MagnitudePruning)
    assert technique.masked_weights == ("return" if returns else "stay")


def check_extended(run, row):
    """1.5 times the epochs, a dense first layer, a last one that is 80 % sparse."""
    check_options(
        run,
        "resnet50",
        train_steps=48_000,
        batch_size=4096,
        decay_epochs=(45.0, 90.0, 120.0),
    )
    assert run.sparsification.overrides == {"conv1": None, "logits": 0.8}
    # The targets, published to two digits, meet the published sparsity. No kernels
    # are the 53,120 gammas and betas and the 1,000 biases.
    kernels, first, last = 25_557_032 - 53_120 - 1000, 7 * 7 * 3 * 64, 2048 * 1000
    target = run.sparsification.target_sparsity
    zeros = target * (kernels - first - last) + 0.8 * last
    assert zeros / kernels == pytest.approx(float(row["sparsity"]), abs=0.005)


def test_recipes_are_what_the_generator_makes_of_the_published_tables():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    on_disk = {path.name: path.read_text() for path in FOLDER.glob("*.flags")}
    assert on_disk == generator.recipes()
    for name, text in on_disk.items():
        assert text.count("\n--label_smoothing=") == 1, name
        says_what_is_known = (
            "Published are 2,048 on each core, most likely of 8." in text
        )
        assert says_what_is_known == name.startswith("transformer"), name


def test_each_published_run_has_a_recipe_with_its_settings():
    for row in table("results"):
        model, technique = row["model"], row["technique"]
        if technique in ALONE or technique == "dense":
            continue
        run = recipe(f"{model}_{technique}_{row['sparsity']}")
        assert run.sparsification.name == technique.removesuffix("_extended")
        expected = check_technique(run.sparsification.technique, model, row)
        assert run.options.label_smoothing == float(expected["label_smoothing"])
        if technique.endswith("_extended"):
            check_extended(run, row)
            continue
        check_options(run, model)
        assert not run.sparsification.overrides
        if "pruning" in technique:
            assert run.sparsification.target_sparsity == float(row["sparsity"])
        if model == "transformer":
            assert run.options.dropout == float(expected["dropout"])


def in_steps(epochs, batch_size):
    return round(epochs * 1_281_167 / batch_size)


def later(epochs, batch_size, learning_rate, weight_decay):
    """Options of a run with a cosine and label smoothing."""
    return {
        "train_steps": in_steps(epochs, batch_size),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "decay_epochs": (),
        "momentum": 0.875,
        "weight_decay": weight_decay,
        "label_smoothing": 0.1,
    }


def test_each_later_technique_has_recipes_with_its_settings():
    ends = [*range(15, 80, 5), 85]
    phases = tuple(in_steps(epoch, 256) for epoch in ends)
    soft = in_steps(5, 512), in_steps(50, 512)
    sgd = {"train_steps": 32_000, "batch_size": 4096, "label_smoothing": 0.1}
    expected = {
        "acdc": (
            lambda s: sos.ACDC(s, in_steps(10, 256), phases),
            later(100, 256, 0.256, 3.05e-5),
        ),
        "feather": (
            lambda s: sos.Feather(s, 0, soft[1]),
            later(100, 512, 0.1, 5e-5),
        ),
        "rigl_erk": (lambda s: sos.RigL(s, 25_000, 100, 0.3), sgd),
        "srste": (lambda s: sos.SRSTE((round(4 * s), 4)), {}),
        "st3": (lambda s: sos.ST3(s, *soft), later(100, 512, 0.1, 5e-5)),
        "st3_sigma": (
            lambda s: sos.ST3(s, *soft, by_fan=True),
            later(100, 512, 0.1, 5e-5),
        ),
        "str": (
            lambda s: sos.STR(-3200.0, 2.2518e-5),
            later(100, 256, 0.256, 2.2518e-5),
        ),
    }
    rows = table("techniques")
    assert {row["technique"] for row in rows} == expected.keys()
    for row in rows:
        name = f"{row['model']}_{row['technique']}_{row['sparsity']}"
        run, (technique, options) = recipe(name), expected[row["technique"]]
        assert run.sparsification.technique == technique(float(row["sparsity"]))
        assert run.sparsification.budget == ("erk" if "erk" in name else None)
        check_options(run, "resnet50", **options)
        text = (FOLDER / f"{name}.flags").read_text()
        assert f" {float(row['score']):.2f} % top-1 at a sparsity of" in text
        assert row["source"] in text
        assert f"# Inferred: {row['inferred']}." in text


def test_dense_runs_have_recipes():
    for model, expected in (("resnet50", 0.0), ("transformer", 0.1)):
        run = recipe(f"{model}_dense")
        assert run.sparsification.technique is None
        check_options(run, model, label_smoothing=expected)
    assert run.options.dropout == 0.1


def test_l0_regularization_of_resnet50_has_the_middle_of_what_was_tried():
    tried = {
        4.6: (3.27826e-3, 3.42656e-3),
        2.95: (6.94679e-4, 7.10290e-4),
        2.197: (3.12215e-4, 3.86366e-4),
        0.847: (1.24886e-4, 1.39716e-4),
    }
    assert len(list(FOLDER.glob("resnet50_l0*.flags"))) == len(tried)
    for log_alpha, weights in tried.items():
        name = f"resnet50_l0_regularization_log_alpha_{log_alpha}"
        assert "no sparse model that kept its accuracy" in comments(name)[0]
        run = recipe(name)
        technique = run.sparsification.technique
        assert (technique.initial_log_alpha, technique.ramp) == (log_alpha, "linear")
        assert (technique.ramp_begin, technique.ramp_length) == (0, 1)
        assert technique.l0_weight == pytest.approx(np.mean(weights), rel=1e-5)
        # 1e-4 over the probability that a gate is open in the beginning.
        decay = pytest.approx(1e-4 * (1 + math.exp(-log_alpha)), rel=1e-4)
        check_options(run, "resnet50", weight_decay=decay, label_smoothing=0.0)


def alone(row):
    """The name of the recipe of a network that was trained alone."""
    parts = [row["model"], row["experiment"]]
    if row["experiment"] == "scratch_b" and row["model"] == "resnet50":
        parts.append(row["learning_rate_schedule"])
    if row["initialization"] == "augmented":
        parts.append("augmented")
    return "_".join([*parts, row["sparsity"]])


def mask_recipe(name):
    """The recipe that finds the masks of another one, as its comment says."""
    needs = comments(name)[1]
    assert needs.startswith("# Needs --load_masks_from")
    assert ("--load_weights_from" in needs) == ("lottery" in name)
    return needs.rpartition(" ")[2].removesuffix(".flags")


def check_masks(name, row):
    """The masks are those of the published runs; the options of these."""
    run = recipe(name)
    assert run.sparsification.name == "magnitude_pruning"
    ramp = (row[f"mask_{field}"] for field in ("begin_step", "end_step", "frequency"))
    check_ramp(run.sparsification.technique, *map(int, ramp))
    assert run.sparsification.target_sparsity == float(row["sparsity"])
    check_options(run, row["model"])
    return run.options


def check_alone(row, *flags_):
    run = recipe(alone(row), *flags_)
    assert run.sparsification.name == "fixed_mask"
    augmented = row["initialization"] == "augmented"
    assert run.start.init == ("sparse" if augmented else None)
    found = check_masks(mask_recipe(alone(row)), row)
    # As the run that found the masks, and whose initial weights a ticket has.
    assert run.options.label_smoothing == found.label_smoothing
    times = 2 if row["experiment"] == "scratch_b" else 1
    changes = {"train_steps": times * OPTIONS[row["model"]]["train_steps"]}
    if row["model"] == "transformer":
        with_dropout = "dropout" in row["regularization"]
        assert run.options.dropout == found.dropout == (0.1 if with_dropout else 0.0)
        smoothing = 0.1 if "label_smoothing" in row["regularization"] else 0.0
    else:
        smoothing = float(row["regularization"].partition("=")[2])
        if "scratch_b_scaled" in alone(row):
            changes |= {"warmup_epochs": 10.0, "decay_epochs": (60.0, 120.0, 160.0)}
    check_options(run, row["model"], label_smoothing=smoothing, **changes)
    return run


def test_each_network_that_was_trained_alone_has_a_recipe(tmp_path):
    sos.save_masks(tmp_path / "masks.npz", {"a/kernel": np.array([True, False])})
    masks = f"--load_masks_from={tmp_path / 'masks.npz'}"
    rows = table("scratch_and_lottery")
    for row in rows:
        assert check_alone(row, masks).start.load_weights_from is None
        published = comments(alone(row))[0]
        beginning = f"# Published: {row['mean']} {UNITS[row['model']]} at a sparsity of"
        assert published.startswith(beginning)
        assert f"{row['sparsity']}, mean of {row['runs']} runs" in published
        assert ("1 failed" in published) == (row["failed_runs"] == "1")
        assert "arXiv 1902.09574" in published
    # One was published with settings of its own.
    found = {mask_recipe(alone(row)) for row in rows}
    own = [name for name in found if "masks" in name]
    assert own == ["resnet50_magnitude_pruning_masks_0.95"]
    assert len(found) == 6 + 7
    run = recipe("resnet50_lottery_ticket_0.90", masks, f"--load_weights_from={FOLDER}")
    assert run.start.load_weights_from == str(FOLDER)
    # Of step 0.
    assert run.start.weights_at_step is None


def test_a_recipe_of_the_paper_says_what_is_inferred():
    guesses = {
        "resnet50_dense": "label smoothing",
        "resnet50_magnitude_pruning_extended": "epochs of the decay",
        "resnet50_random_pruning": "renewals",
        "resnet50_l0_regularization": "where the ramp begins and ends",
        "transformer_dense": "dropout and label smoothing",
        "transformer_scratch_b": "twice the steps",
        "transformer": "the tokens of a step. Published are 2,048 on each core",
    }
    later = {row["technique"] for row in table("techniques")}
    for path in FOLDER.glob("*.flags"):
        if any(path.name.startswith(f"resnet50_{name}_") for name in later):
            continue
        guess = [text for name, text in guesses.items() if path.name.startswith(name)]
        lines = [line for line in path.read_text().splitlines() if "Inferred" in line]
        assert len(lines) == len(guess), path
        assert all(text in line for text, line in zip(guess, lines, strict=True))


def test_a_recipe_says_what_was_published_and_where():
    scores = {}
    for row in table("results"):
        if row["technique"] not in ALONE:
            name = f"{row['model']}_{row['technique']}_{row['sparsity']}"
            name = name.replace("_dense_0.0", "_dense")
            scores.setdefault(name, []).append(float(row["score"]))
    for name, found in scores.items():
        published = comments(name)[0]
        unit = UNITS[name.partition("_")[0]]
        assert published.startswith("# Published: ")
        assert f" {np.mean(found):.2f} {unit}" in published
        assert "arXiv 1902.09574" in published

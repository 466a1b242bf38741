"""What a run tried, from its flags."""

import pytest

from state_of_sparsity.models.runs.variants import (
    Settings,
    group,
    order,
    read_settings,
    variant,
)
from state_of_sparsity.models.training.run_folder import RunFolder
from tests.models.analysis.conftest import write_run

PRUNED = {"technique": "magnitude_pruning", "train_steps": "600", "sparsity": "0.9"}
DROPOUT = {
    "technique": "variational_dropout",
    "train_steps": "600",
    "kl_weight": "1e-4",
    "seed": "3",
}
FIXED = {
    "technique": "fixed_mask",
    "train_steps": "600",
    "load_masks_from": "/runs/pruned",
}
TICKET = FIXED | {"load_weights_from": "/runs/pruned"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"technique": "dense"}, "dense"),
        (PRUNED, "magnitude pruning"),
        ({"technique": "l0_regularization"}, "L0 regularization"),
        (PRUNED | {"masked_weights": "stay"}, "magnitude pruning"),
        (
            PRUNED | {"masked_weights": "return"},
            "magnitude pruning, masked weights return",
        ),
        (
            {"technique": "movement_pruning", "masked_weights": "return"},
            "movement pruning",
        ),
        ({"technique": "rigl"}, "RigL"),
        ({"technique": "acdc"}, "AC/DC, global"),
        ({"technique": "synflow"}, "SynFlow, global"),
        (PRUNED | {"end_step": "0"}, "magnitude pruning, at initialization"),
        ({"technique": "st3", "by_fan": "True"}, "ST-3, sigma, global"),
        (
            {
                "technique": "feather",
                "budget": "erk",
                "powerpropagation_alpha": "2.0",
            },
            "Feather, powerpropagation 2, erk",
        ),
        (PRUNED | {"budget": "erk"}, "magnitude pruning, erk"),
        (PRUNED | {"budget": "/gone/layers.csv"}, "magnitude pruning, table"),
        (
            PRUNED | {"override": "conv1=dense, logits=0.8"},
            "magnitude pruning, conv1=dense, logits=0.8",
        ),
        (
            PRUNED | {"rounds": "5", "rewind": "weights"},
            "magnitude pruning, iterative, weights rewound",
        ),
        (
            PRUNED | {"rounds": "5", "rewind": "learning_rate", "rewind_to_step": "50"},
            "magnitude pruning, iterative, learning rate rewound to step 50",
        ),
        (
            PRUNED | {"load_weights_from": "/runs/dense", "weights_at_step": "50"},
            "magnitude pruning, from step 50 of another run",
        ),
    ],
)
def test_a_technique_is_named_with_what_is_special(flags, name):
    assert variant(Settings(flags)) == name


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (TICKET, "lottery ticket"),
        (TICKET | {"weights_at_step": "0"}, "lottery ticket"),
        (TICKET | {"weights_at_step": "50"}, "lottery ticket, weights of step 50"),
        (FIXED, "scratch-e"),
        (FIXED | {"init": "sparse"}, "scratch-e, augmented init"),
        (FIXED | {"init": "standard"}, "scratch-e"),
        (FIXED | {"shuffle_masks": "within_layer"}, "scratch-e, shuffled masks"),
        (TICKET | {"shuffle_masks": "within_layer"}, "lottery ticket, shuffled masks"),
        (FIXED | {"train_steps": "1200"}, "scratch-b"),
        (
            FIXED | {"train_steps": "1200", "init": "sparse"},
            "scratch-b, augmented init",
        ),
        (FIXED | {"train_steps": "900"}, "scratch-b, 1.5x steps"),
        (FIXED | {"train_steps": "300"}, "scratch, 0.5x steps"),
    ],
)
def test_experiments_have_the_names_of_the_paper(flags, name):
    assert variant(Settings(flags, Settings(PRUNED))) == name


@pytest.mark.parametrize(
    ("epochs", "name"),
    [("40.0,52.0", "scratch-b"), ("20.0,26.0", "scratch-b, constant final rate")],
)
def test_the_schedule_of_twice_the_steps_is_told_from_its_epochs(epochs, name):
    flags = FIXED | {"train_steps": "1200", "decay_epochs": epochs}
    source = PRUNED | {"decay_epochs": "20.0,26.0"}
    assert variant(Settings(flags, Settings(source))) == name


def test_the_run_on_which_another_builds_is_named():
    name = variant(Settings(TICKET, Settings(DROPOUT)))
    assert name == "lottery ticket, masks of variational dropout"
    # Unless it is gone.
    assert variant(Settings(FIXED)) == "scratch, 600 steps"
    flags = {"technique": "random_pruning", "budget": "/runs/vd/layers.csv"}
    name = variant(Settings(flags, Settings(DROPOUT)))
    assert name == "random pruning, layers of variational dropout"


LONG, SHORT = ({"technique": "dense", "train_steps": s} for s in ("1200", "600"))
TWO_OF_FOUR = {"technique": "srste", "train_steps": "600", "sparsity_m_by_n": "2,4"}
# The sparsity of the flags is not that of the table.
TABLE = {"technique": "random_pruning", "budget": "/runs/vd/layers.csv"}
TABLE |= {"sparsity": "0.9"}


@pytest.mark.parametrize(
    ("one", "sparsity", "other", "reached", "is_one_point"),
    [
        # Pruned runs of a target, whatever else differs.
        (PRUNED | {"seed": "1"}, 0.9, PRUNED | {"end_step": "9"}, 0.901, True),
        (PRUNED | {"sparsity": "0.8"}, 0.9, PRUNED, 0.9, False),
        (TWO_OF_FOUR, 0.5, TWO_OF_FOUR | {"decay": "1e-4"}, 0.49, True),
        # Those of learned techniques with the same flags.
        (DROPOUT, 0.81, DROPOUT | {"seed": "7"}, 0.83, True),
        (DROPOUT, 0.81, DROPOUT | {"kl_weight": "2e-4"}, 0.81, False),
        # Those with masks, with the runs that found them.
        ((FIXED, PRUNED), 0.9, PRUNED, 0.9, True),
        ((FIXED, DROPOUT), 0.8, DROPOUT, 0.8, True),
        ((TABLE, DROPOUT), 0.8, DROPOUT, 0.8, True),
        # If these are gone, the equally sparse.
        (FIXED, 0.90001, FIXED, 0.90002, True),
        (FIXED, 0.9, FIXED, 0.8, False),
        # Dense ones, if trained as long.
        (LONG, 0.0, SHORT, 0.0, False),
    ],
)
def test_runs_that_are_one_point(one, sparsity, other, reached, is_one_point):
    flags, *source = one if isinstance(one, tuple) else (one,)
    settings = Settings(flags, *map(Settings, source))
    same = group(settings, sparsity) == group(Settings(other), reached)
    assert same == is_one_point


@pytest.mark.parametrize("place", ["", "masks.npz"])
def test_settings_know_the_run_of_the_masks_by_folder_and_by_file(tmp_path, place):
    pruned = write_run(tmp_path / "pruned", 0.9, 0.9, flags={"sparsity": 0.9})
    flags = {"technique": "fixed_mask", "load_masks_from": pruned / place}
    (pruned / "masks.npz").write_bytes(b"")
    alone = write_run(tmp_path / "alone", 0.9, 0.9, flags=flags)
    settings = read_settings(RunFolder(alone))
    assert settings.source.flags["sparsity"] == "0.9"
    assert variant(settings) == "scratch-e"


def test_settings_of_a_run_without_a_technique_are_refused(tmp_path):
    (tmp_path / "flags.txt").write_text("--train_steps=600\n")
    with pytest.raises(ValueError, match=r"flags.txt is damaged.* say --technique"):
        read_settings(RunFolder(tmp_path))


def test_variants_of_the_paper_come_first_and_each_before_its_own_variants():
    names = ["other", "scratch-e, x", "random pruning", "scratch-e", "dense-ish"]
    assert sorted(names, key=order) == [
        "random pruning",
        "scratch-e",
        "scratch-e, x",
        "dense-ish",
        "other",
    ]

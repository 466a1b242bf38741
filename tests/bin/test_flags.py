"""Flags that are made from dataclasses, and back."""

import dataclasses
import functools

import numpy as np
import pytest
from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin.flags import REMOVED
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.runs.settings import NAMED, WITHOUT_FLAG, of_fields
from state_of_sparsity.models.runs.variants import ONE_THRESHOLD
from state_of_sparsity.models.training.rewinding.rounds import Rounds
from state_of_sparsity.models.usage import UsageError
from tests.bin.conftest import parsed, run_of

# One holds an object, which no flag can spell out.
NOT_FLAGS = {"shared_threshold", *WITHOUT_FLAG}
# Hyperparameters that are options of the run, too.
OPTIONS = {"seed", "weight_decay"}


run = functools.partial(run_of, "train_resnet50")


def documented(cls, name):
    """The first words on a field in the docstring of the class that has it."""
    lines = [x for c in cls.__mro__ for x in (c.__doc__ or "").splitlines()]
    found = [line for line in lines if line.strip().startswith(f"{name}: ")]
    return found[0].partition(": ")[2].strip()


def repeated(made):
    """The flags that repeat a run."""
    return [
        f"--{name}={text}"
        for name, value in made.flags().items()
        for text in (value if isinstance(value, list) else [value])
    ]


@pytest.mark.parametrize("cls", [ImageOptions, Rounds, *NAMED.values()])
def test_every_field_has_a_flag_with_its_help_text(cls):
    values = parsed("train_resnet50")
    for field in dataclasses.fields(cls):
        if field.name in NOT_FLAGS:
            assert field.name not in values
        elif cls in (ImageOptions, Rounds) or field.name not in OPTIONS:
            assert documented(cls, field.name) in values[field.name].help


def test_there_are_few_flags():
    """With --output_dir, 66 of train_resnet50."""
    assert len(list(parsed("train_resnet50"))) == 66
    assert not (REMOVED.keys() | WITHOUT_FLAG) & set(parsed("train_resnet50"))


@pytest.mark.parametrize("name", ["kl_weight", "sparsity", "ramp"])
def test_the_help_of_a_hyperparameter_names_its_techniques(name):
    text = parsed("train_resnet50")[name].help
    for technique in ("magnitude_pruning", "random_pruning"):
        assert (technique in text) == (name == "sparsity")
    assert "variational_dropout" in text
    assert ("l0_regularization" in text) == (name != "kl_weight")


def test_a_field_without_help_is_an_error():
    @dataclasses.dataclass
    class Options:
        """Options.

        Attributes:
          first: the first one.
        """

        first: int = 0
        second: int = 0

    with pytest.raises(ValueError, match=r"Options does not say .*'second'"):
        of_fields(Options)


def test_flags_become_fields_of_their_types():
    made = run(
        "--technique=magnitude_pruning",
        "--sparsity=0.5",
        "--begin_step=10",
        "--end_step=20",
        "--frequency=5",
        "--sparsity_m_by_n=2,4",
        "--decay_epochs=1,2.5",
        "--seed=7",
        "--train_steps=50",
    )
    assert made.sparsification.technique == sos.MagnitudePruning(
        0.5, 10, 20, 5, sparsity_m_by_n=(2, 4)
    )
    assert made.options.decay_epochs == (1.0, 2.5)
    assert (made.options.seed, made.options.train_steps) == (7, 50)


def test_without_flags_a_run_prunes_digits_to_90_percent():
    made = run()
    assert made.options.dataset == "digits"
    assert made.sparsification.technique.technique_name() == "magnitude_pruning"
    assert made.sparsification.target_sparsity == 0.9


def test_the_seed_is_that_of_the_run_and_of_random_pruning():
    made = run("--technique=random_pruning", "--seed=5")
    assert made.options.seed == made.sparsification.technique.seed == 5


def test_the_weight_decay_is_that_of_all_weights_and_of_the_thresholds_of_str():
    made = run("--technique=str", "--threshold_init=-5")
    assert made.options.weight_decay == 5e-3
    assert made.sparsification.technique == sos.STR(-5.0, 5e-3)
    made = run("--technique=str", "--weight_decay=1e-3")
    assert made.options.weight_decay == made.sparsification.technique.weight_decay


@pytest.mark.parametrize("technique", NAMED)
@pytest.mark.parametrize("binary", ["train_resnet50", "train_transformer"])
def test_each_technique_is_trained_by_its_name_alone(binary, technique):
    made = run_of(binary, f"--technique={technique}")
    assert type(made.sparsification.technique) is NAMED[technique]
    settled = made.sparsification.settled_step
    assert 0 <= settled <= made.options.train_steps
    assert run_of(binary, *repeated(made)) == made


def test_schedules_are_those_of_the_papers():
    def made(technique, *further):
        return run(f"--technique={technique}", *further).sparsification.technique

    assert made("feather") == sos.Feather(0.9, 1, 300)
    assert made("st3") == sos.ST3(0.9, 30, 300)
    assert made("rigl", "--seed=3") == sos.RigL(0.9, 450, 10, seed=3)
    assert made("spartan") == sos.Spartan(0.9, 120, 480)
    assert made("srste") == sos.SRSTE((2, 4))
    steps = [*range(90, 451, 30), 510]
    assert made("acdc") == sos.ACDC(0.9, 60, tuple(steps))
    assert made("acdc", "--phases=", "--dense_steps=9") == sos.ACDC(0.9, 9)
    assert made("fisher_pruning", "--block_size=50").block_size == 50
    # Ten images of each of ten classes.
    assert run("--technique=grasp").start.mask_batches == 2
    assert run("--technique=snip").start.mask_batches == 1
    assert run().start.mask_batches is None


def test_a_sparsity_is_in_place_of_the_weight_of_a_penalty():
    made = run("--technique=variational_dropout", "--sparsity=0.8", "--budget=erk")
    assert made.sparsification.technique.kl_weight is None
    assert made.sparsification.target_sparsity == 0.8
    assert run(*repeated(made)) == made
    made = run("--technique=variational_dropout", "--kl_weight=1e-3")
    assert made.sparsification.target_sparsity is None
    with pytest.raises(UsageError, match=r"either l0_weight.*or sparsity"):
        run("--technique=l0_regularization", "--sparsity=0.8", "--l0_weight=1")


def test_powerpropagation_wraps_the_technique():
    made = run("--technique=feather", "--powerpropagation_alpha=2")
    feather = run("--technique=feather").sparsification.technique
    assert made.sparsification.technique == sos.Powerpropagation(2.0, feather)
    assert made.sparsification.target_sparsity == 0.9
    assert made.sparsification.name == "feather"
    assert "powerpropagation_alpha=2.0 budget=global" in str(made.sparsification)


def test_one_threshold_is_the_budget_of_techniques_that_have_it():
    """`compare` names them without a backend, and so without their classes."""
    found = {name for name, cls in NAMED.items() if _is_global(cls)}
    assert found == set(ONE_THRESHOLD)
    assert "budget=global" in str(run("--technique=st3").sparsification)
    assert "budget=erk" in str(run("--technique=st3", "--budget=erk").sparsification)
    assert "budget" not in str(run("--technique=rigl").sparsification)


def _is_global(cls):
    return getattr(cls, "is_global", False)


def test_a_dense_run_has_no_technique():
    assert run("--technique=dense").sparsification.technique is None


@pytest.mark.parametrize("text", ["conv1", "conv1=much", "=0.5", "conv1=", ""])
def test_an_override_that_cannot_be_read_is_an_error_showing_how(text):
    with pytest.raises(UsageError, match="REGEX=SPARSITY or REGEX=dense") as error:
        run(f"--override={text}")
    assert f"Received: {text!r}" in str(error.value)


def test_overrides_may_hold_equals_signs_and_keep_their_order():
    made = run("--override=a(?=b).*=0.5", "--override=conv1=dense")
    assert list(made.sparsification.overrides.items()) == [
        ("a(?=b).*", 0.5),
        ("conv1", None),
    ]


@pytest.mark.parametrize(
    "name", ["uniform", "first_dense_last_capped", "erk", "global", "global_flops"]
)
def test_a_budget_goes_into_the_flags_that_repeat_the_run(name):
    made = run(f"--budget={name}", "--override=conv1=dense")
    assert made.flags()["budget"] == name
    assert isinstance(made.sparsification.budget_of_layers, sos.Budget)
    assert "budget" not in run().flags()


def test_the_layers_of_another_run_are_a_budget(tmp_path, monkeypatch):
    (tmp_path / "layers.csv").write_text("name,size,zeros\na/kernel,8,2\n")
    monkeypatch.chdir(tmp_path)
    made = run("--budget=layers.csv", "--technique=random_pruning")
    assert made.flags()["budget"] == str(tmp_path / "layers.csv")


@pytest.fixture
def masks(tmp_path):
    """A file of masks, in what could be the folder of a run."""
    masks = {"conv1/kernel": np.arange(12).reshape(3, 4) % 3 == 0}
    sos.save_masks(tmp_path / "masks.npz", masks)
    return masks


def test_masks_of_a_run_are_fixed(tmp_path, masks):
    made = run("--technique=fixed_mask", f"--load_masks_from={tmp_path}")
    np.testing.assert_equal(made.sparsification.technique.masks, masks)
    assert made.flags()["load_masks_from"] == str(tmp_path)
    assert "shuffle_masks" not in made.flags()
    path = tmp_path / "masks.npz"
    shuffled = run(
        "--technique=fixed_mask",
        f"--load_masks_from={path}",
        "--shuffle_masks=within_layer",
        "--seed=4",
    )
    np.testing.assert_equal(
        shuffled.sparsification.technique.masks, sos.shuffle_masks(masks, 4)
    )
    assert shuffled.flags()["shuffle_masks"] == "within_layer"


def test_where_weights_are_from_goes_into_the_flags_that_repeat_the_run(tmp_path):
    made = run(f"--load_weights_from={tmp_path}", "--weights_at_step=3")
    given = {"load_weights_from": str(tmp_path), "weights_at_step": "3"}
    assert given.items() <= made.flags().items()
    assert run("--keep_steps=2,10").start.keep_steps == (2, 10)
    assert run("--keep_steps=2,10").flags()["keep_steps"] == "2,10"
    assert not {*given, "keep_steps"} & run().flags().keys()


def test_rounds_say_how_sparse_the_last_is():
    made = run("--rounds=3", "--prune_fraction=0.5")
    assert made.rounds == Rounds(3, 0.5, "weights", 0)
    assert made.sparsification.technique == sos.MagnitudePruning(0.875, 0, 0, 1)
    # By default, a fifth of what is left.
    assert run("--rounds=2").sparsification.target_sparsity == 0.36
    assert "sparsity" not in run("--rounds=2").flags()
    made = run("--rounds=4", "--sparsity=0.9", "--rewind=learning_rate")
    assert made.rounds == Rounds(4, None, "learning_rate", 0)
    assert made.sparsification.target_sparsity == 0.9
    assert made.flags()["sparsity"] == "0.9"
    assert not {"begin_step", "end_step", "frequency"} & made.flags().keys()
    assert run().rounds is None
    names = {field.name for field in dataclasses.fields(Rounds)}
    assert not names & run().flags().keys()


@pytest.mark.parametrize("schedule", ["scaled", "constant_final", None])
def test_a_run_of_twice_the_steps(schedule):
    plain, given = run(), [] if schedule is None else [f"--stretch_schedule={schedule}"]
    made = run("--train_steps_multiplier=2", *given)
    assert made.options.train_steps == 2 * plain.options.train_steps
    factor = 2 if schedule == "scaled" else 1
    assert made.options.warmup_epochs == factor * plain.options.warmup_epochs
    assert made.options.decay_epochs == tuple(
        factor * epoch for epoch in plain.options.decay_epochs
    )
    # What is a share of the steps is one of the longer run.
    technique = made.sparsification.technique
    assert technique.end_step == 2 * plain.sparsification.technique.end_step
    # Repeated by its flags, it is the same run.
    assert run(*repeated(made)).options == made.options


def test_a_learning_rate_without_epochs_is_not_stretched():
    given = ("--train_steps_multiplier=2", "--stretch_schedule=scaled")
    with pytest.raises(UsageError, match=r"give constant_final"):
        run_of("train_transformer", *given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        # What one technique or data set has, and the one of the run has not.
        ("technique=variational_dropout frequency=5", "not have --frequency .*magnit"),
        ("technique=l0_regularization block_size=1,1", "does not have --block_size"),
        ("technique=dense sparsity=0.9", "dense does not have --sparsity .*magnitude"),
        ("technique=dense override=conv1=0.5", r"not have --override=conv1=0\.5"),
        ("technique=dense budget=erk", "dense does not have --budget=erk"),
        ("technique=l0_regularization budget=erk", "l0.* have --budget"),
        ("technique=srste budget=erk", "srste does not have --budget=erk"),
        ("technique=rigl budget=global", "rigl does not have --budget=global"),
        ("technique=st3 budget=global_flops", "st3 does not have --budget=global_fl"),
        ("technique=rigl begin_step=1", "rigl does not have --begin_step"),
        ("technique=dense powerpropagation_alpha=2", "dense does not have --power"),
        ("technique=rigl powerpropagation_alpha=2", "whose weights start again from"),
        ("technique=str powerpropagation_alpha=2", "must be a technique that prunes"),
        ("schedule=cosine decay_epochs=9", "decay_epochs must be left out with .*cos"),
        (
            "schedule=cosine train_steps_multiplier=2",
            "stretch_schedule must be scaled with schedule=cosine",
        ),
        ("technique=snip begin_step=1", "snip does not have --begin_step"),
        ("technique=snip powerpropagation_alpha=2", "snip does not have --power"),
        ("technique=snip load_masks_from=a", "snip .* --load_masks.* to fixed_mask"),
        ("technique=synflow mask_batches=2", "--mask_batches .*belongs to snip, grasp"),
        ("technique=snip distribution=multi_worker", "snip is for one machine"),
        ("load_masks_from=nowhere", "magnitude_pruning does not have --load_masks"),
        ("shuffle_masks=within_layer", "does not have --shuffle_masks"),
        ("technique=fixed_mask sparsity=0.5", "does not have --sparsity"),
        ("data_dir=data", "digits has no use for data_dir .*imagenet2012.*: 'data'"),
        # What needs something else, or excludes it.
        ("technique=fixed_mask", "fixed_mask needs --load_masks_from"),
        ("init=sparse", "--init=sparse needs --technique=fixed_mask"),
        ("init=sparse load_weights_from=a", "exclude each other"),
        ("weights_at_step=3", "weights_at_step needs load_weights_from"),
        ("stretch_schedule=scaled", "stretch_schedule needs train_steps_multiplier"),
        # Values.
        (
            "technique=fixed_mask load_masks_from=nowhere",
            r"must be the folder of a finished run.*Received: 'nowhere'",
        ),
        ("budget=erc", r"must be one of uniform, .* or the layers\.csv.*'erc'"),
        ("init=dense", "init must be one of standard, sparse"),
        ("keep_steps=0", "keep_steps must be at least 1"),
        ("keep_steps=5,90 train_steps=80", r"after the last.*\[90\]"),
        ("keep_steps=a", "keep_steps must be numbers"),
        ("override=a=0.5 override=b=1 override=a=0.5", "'a' more than .*a=0.5, a=0.5$"),
        ("override=a=0.5 override=a=dense", "'a' more than once.*a=0.5, a=dense$"),
        ("train_steps_multiplier=0", "must be positive. Received: 0"),
        ("sparsity=1.5", "sparsity must be at least 0 and below 1.*Received: 1.5"),
        ("technique=grasp sparsity=1", "sparsity must be at least 0 and below 1"),
        ("technique=grasp mask_batches=0", "mask_batches must be at least 1.* 0"),
        ("sparsity=-0.1", "sparsity must be at least 0.*Received: -0.1"),
        ("frequency=0", "frequency must be at least 1. Received: 0"),
        ("begin_step=560", "begin_step=560, end_step=400"),
        ("end_step=601", "--end_step is after .* --train_steps=600.* 601"),
        ("technique=spartan fixed_step=601", "--fixed_step is after .* 601"),
        ("technique=acdc phases=70,601", "--phases is after .* 601"),
        ("frequency=601", "--frequency is longer than --train_steps=600.* 601"),
        (
            "technique=variational_dropout ramp_begin=400",
            "--ramp_begin=400 and --ramp_length=300 end after",
        ),
        ("technique=fisher_pruning block_size=4,4", "block_size must be an integer"),
        ("technique=saliency_pruning begin_step=1", "begin_step be at least 2"),
        ("sparsity_m_by_n=2,x", "--sparsity_m_by_n must be numbers.*Received: 2,x"),
        ("block_size=4", r"block_size must be two integers. Received: \(4,\)"),
        ("decay_epochs=a", "--decay_epochs must be numbers.*Received: a"),
        ("depth=51", "depth must be one of .*Received: 51"),
        # Rounds. What is wrong with them alone is told by the tests of `Rounds`.
        ("rounds=0", "rounds must be at least 1. Received: 0"),
        ("rounds=2 sparsity=1.5", "sparsity must be at least 0 and below 1"),
        ("rounds=2 rewind_to_step=80 train_steps=80", "before the last of train_steps"),
        ("rounds=2 technique=dense", "technique=dense does not have --rounds"),
        (
            "rounds=2 technique=random_pruning",
            r"random_pruning does not have --rounds \(it belongs to magnitude_pruning",
        ),
        ("rounds=2 begin_step=0", "--begin_step is not for --rounds.*: 0"),
        ("rounds=2 end_step=9", "--end_step is not for --rounds.*: 9"),
        ("rounds=2 frequency=3", "--frequency is not for --rounds.*: 3"),
        ("rounds=2 block_size=4,4", "--block_size is not for --rounds"),
        ("rounds=2 kl_weight=1", "does not have --kl_weight"),
        ("rounds=2 masked_weights=return", "--masked_weights is not for --rounds"),
        ("rounds=2 powerpropagation_alpha=2", "--powerpropagation_alpha is not for"),
        ("rounds=2 distribution=multi_worker", "--rounds is for one machine"),
    ],
)
def test_bad_flags_are_errors_which_name_them(given, message):
    with pytest.raises(UsageError, match=message):
        run(*(f"--{flag}" for flag in given.split()))


def test_an_unknown_technique_is_an_error_listing_those_there_are():
    with pytest.raises(flags.IllegalFlagValueError, match="magnitude_pruning"):
        run("--technique=foo")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--technique=dense", "--label_smoothing=0.1"],
        ["--technique=random_pruning", "--sparsity=0.123456789", "--seed=3"],
        ["--rounds=3", "--override=conv1=0.5", "--budget=erk"],
        ["--rounds=3", "--sparsity=0.7", "--rewind=learning_rate"],
        ["--rounds=3", "--prune_fraction=0.3", "--rewind_to_step=9"],
        [
            "--sparsity=0.5",
            "--sparsity_m_by_n=2,4",
            "--override=conv1=dense",
            "--override=logits|stage4.*=0.5",
            "--decay_epochs=1.5,3",
            "--learning_rate=1e-3",
        ],
    ],
)
def test_the_flags_of_a_run_repeat_it(arguments):
    made = run(*arguments)
    assert run(*repeated(made)) == made

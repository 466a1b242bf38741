"""Checkpoints of the published runs: what is in them, and where the zeros are."""

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.published.tf1_checkpoint import (
    TF1Checkpoint,
    sparsity_report,
)
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError
from tests import published

BODY = "transformer/body/encoder/layer_0"
EMBEDDING = "transformer/symbol_modality_33288_512/shared"
NORM = f"{BODY}/ffn/layer_prepostprocess/layer_norm"


@pytest.fixture
def prefix(tmp_path):
    return str(tmp_path / "model.ckpt-5")


@pytest.fixture
def thetas(rng):
    """The matrices of a small Transformer, by scope."""
    shapes = {
        f"{BODY}/self_attention/multihead_attention/q": (4, 6),
        f"{BODY}/ffn/conv1": (6, 8),
        EMBEDDING: (10, 4),
    }
    return {s: rng.uniform(0.5, 1, n).astype("float32") for s, n in shapes.items()}


def others(thetas):
    """What is neither a matrix nor belongs to one."""
    slots = {
        f"training/{scope}/{name}/{slot}": np.ones(3, "float32")
        for scope in thetas
        for name in ("kernel", "weights", "weights_0")
        for slot in ("Adam", "Adam_1")
        if scope != EMBEDDING or name == "weights_0"
    }
    return slots | {
        "global_step": np.int64(5),
        "training/beta1_power": np.float32(0.9),
        f"{NORM}/layer_norm_scale": np.ones(6, "float32"),
        f"{NORM}/layer_norm_bias": np.ones(6, "float32"),
    }


def store(prefix, variables, thetas):
    """Writes them, and slots of those that are there alone."""
    slots = {
        name: value
        for name, value in others(thetas).items()
        if not name.startswith("training/transformer")
        or name.removeprefix("training/").rpartition("/")[0] in variables
    }
    published.write(prefix, variables | slots)
    return TF1Checkpoint(prefix)


def rows(report):
    return {x.name: (x.shape, x.zeros, x.technique) for x in report.layers}


@pytest.mark.parametrize("technique", ["variational_dropout", "l0_regularization"])
def test_zeros_of_a_learned_transformer(technique, prefix, thetas, rng):
    variables, expected = {}, {}
    for scope, theta in thetas.items():
        added, _, kept = published.learned(technique, theta, rng, threshold=2.0)
        ((end, value),) = added.items()
        name = f"{scope}/weights_0" if scope == EMBEDDING else f"{scope}/kernel"
        extra = f"{name}_aux" if scope == EMBEDDING else f"{scope}/{end}"
        variables |= {name: theta, extra: value}
        expected[name] = theta.shape, int((~kept).sum()), technique
    threshold = 2.0 if technique == "variational_dropout" else None
    report = sparsity_report(store(prefix, variables, thetas), threshold)
    assert rows(report) == expected
    zeros = sum(zeros for _, zeros, _ in expected.values())
    assert report.sparsity == pytest.approx(zeros / (24 + 48 + 40))
    assert report.parameters == 24 + 48 + 40 + 12
    assert report.nonzero_parameters == report.parameters - zeros


@pytest.mark.parametrize("shards", [1, 3])
def test_zeros_of_a_pruned_transformer_are_those_of_its_masks(
    shards, prefix, thetas, rng
):
    variables, expected = {}, {}
    for scope, theta in thetas.items():
        added, _, kept = published.learned("pruning", theta, rng)
        if scope == EMBEDDING:
            # The mask of the embedding is in a scope without a name.
            variables[f"{scope}//mask"] = added["mask"]
            parts = np.array_split(theta, shards)
            variables |= {f"{scope}/weights_{i}": x for i, x in enumerate(parts)}
            name = f"{scope}/weights" + ("_0" if shards == 1 else "")
        else:
            scope = f"{scope}/fully_connected"
            variables |= {f"{scope}/{end}": value for end, value in added.items()}
            name = f"{scope}/weights"
            variables[name] = theta
        expected[name] = theta.shape, int((~kept).sum()), "pruning"
    checkpoint = store(prefix, variables, thetas)
    assert rows(sparsity_report(checkpoint)) == expected
    assert checkpoint.names("unknown") == []
    assert checkpoint.step == 5


def test_shards_are_put_together_by_their_number(prefix):
    parts = {f"shared/weights_{i}": np.full((1, 2), i + 1.0) for i in range(12)}
    mask = np.arange(24).reshape(12, 2) % 2
    published.write(prefix, parts | {"shared/mask": mask})
    (weight,) = TF1Checkpoint(prefix).weights()
    np.testing.assert_array_equal(
        weight.deployed, np.arange(1.0, 13)[:, None] * [[0, 1]]
    )


def test_what_has_no_mask_is_dense(prefix):
    theta = np.array([[1.0, 0.0, 2.0]])
    variables = {
        "a/weights": theta,
        "a/mask": np.array([[1.0, 1.0, 0.0]]),
        "b/kernel": theta,
    }
    report = sparsity_report(TF1Checkpoint(published.write(prefix, variables)))
    # A weight that its mask keeps counts as kept, whatever its value.
    assert rows(report) == {
        "a/weights": ((1, 3), 1, "pruning"),
        "b/kernel": ((1, 3), 1, "dense"),
    }
    assert "(33.33% over the 1 sparsified)" in str(report)


def test_names_that_say_nothing_are_listed(prefix):
    variables = {"a/weights": np.ones((1, 2)), "a/weird": 1.0, "losses_avg/total": 2.0}
    checkpoint = TF1Checkpoint(published.write(prefix, variables))
    assert checkpoint.names("unknown") == ["a/weird", "losses_avg/total"]


@pytest.mark.parametrize(
    ("names", "threshold", "message"),
    [
        ("a/b", None, r"no variable is called …/weights.*It has a/b"),
        ("a/mask b/kernel", None, "no weights that belong to a/mask"),
        ("a/log_sigma2 a/kernel", None, "give --log_alpha_threshold"),
        ("a/mask a/weights", 0.5, "has no log_sigma2"),
        ("a/weights_0 a/weights_0_aux", None, "neither log_sigma2 nor log_alpha"),
        ("a/kernel a/log_alpha b/kernel b/log_sigma2", None, "log_alpha and log_sigma"),
    ],
)
def test_what_is_not_said_is_not_guessed(names, threshold, message, prefix):
    variables = {name: [1.0] for name in names.split()}
    checkpoint = TF1Checkpoint(published.write(prefix, variables))
    with pytest.raises(CheckpointError, match=message):
        sparsity_report(checkpoint, threshold)


def test_a_mask_of_another_shape_is_refused(prefix):
    variables = {"a/mask": [1.0, 0.0], "a/weights": [1.0]}
    checkpoint = TF1Checkpoint(published.write(prefix, variables))
    message = r"a/weights has the shape \(1,\), and a/mask \(2,\)"
    with pytest.raises(CheckpointError, match=message):
        sparsity_report(checkpoint)


@pytest.mark.parametrize("given", ["none", "text", "index", "empty"])
def test_what_is_no_checkpoint_is_refused(given, prefix, tmp_path):
    if given != "none":
        contents = {"text": "a checkpoint, honestly" * 10, "empty": ""}
        (tmp_path / "model.ckpt-5.index").write_text(contents.get(given, "index"))
    if given == "index":
        prefix += ".index"
    expected = "cannot be read" if given in ("text", "empty") else "There is no checkp"
    with pytest.raises(CheckpointError, match=expected):
        TF1Checkpoint(prefix)


def test_a_truncated_checkpoint_is_refused(prefix, tmp_path):
    published.write(prefix, {"a/weights": np.ones((100, 100))})
    data = next(tmp_path.glob("*.data*"))
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be read at a/weights"):
        sparsity_report(TF1Checkpoint(prefix))


def test_a_checkpoint_of_objects_is_refused(tmp_path):
    saved = tf.train.Checkpoint(a=tf.Variable(1.0)).save(str(tmp_path / "ckpt"))
    with pytest.raises(CheckpointError, match=r"no checkpoint of the published runs"):
        sparsity_report(TF1Checkpoint(saved))


@pytest.mark.parametrize("steps", [{}, {"global_step": 1, "a/global_step": 2}])
def test_a_checkpoint_that_does_not_say_its_step_is_refused(steps, prefix):
    published.write(prefix, {"a/weights": [1.0], **steps})
    with pytest.raises(CheckpointError, match="does not say how long it was trained"):
        _ = TF1Checkpoint(prefix).step


def test_a_checkpoint_of_a_saver_of_tensorflow_1_is_read(prefix):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("a/weights", initializer=[[1.0, 2.0]])
        tf.compat.v1.get_variable("a/mask", initializer=[[0.0, 1.0]])
        tf.compat.v1.train.create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        saved = tf.compat.v1.train.Saver().save(session, prefix)
    checkpoint = TF1Checkpoint(saved)
    assert rows(sparsity_report(checkpoint)) == {"a/weights": ((1, 2), 1, "pruning")}
    assert checkpoint.step == 0

"""A task that trains in a second, for tests of what all tasks share."""

import dataclasses

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.images.dataset import endless
from state_of_sparsity.models.training.loop.building import build_model
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.loop.training import train
from state_of_sparsity.models.training.run_folder import RunFolder

EXAMPLES = 40
FEATURES, CLASSES = 6, 3


@dataclasses.dataclass(frozen=True)
class TinyOptions:
    dataset: str = "tiny"
    train_steps: int = 12
    eval_steps: int = 4
    export: str = "last"
    batch_size: int = 8
    seed: int = 0
    precision: str = "float32"
    units: int = 16
    dropout: float = 0.0
    accumulate_steps: int = 1


class TinyTask(Task):
    """A perceptron with batch normalization, on points that can be told apart."""

    name = "tiny"
    quality_metric = "accuracy"

    def __init__(self, **options):
        self.options = TinyOptions(**options)

    @property
    def steps_per_epoch(self):
        return EXAMPLES / self.options.batch_size

    @property
    def examples_per_step(self):
        return self.options.batch_size

    def build(self):
        return keras.Sequential(
            [
                keras.layers.Dense(
                    self.options.units, input_shape=(FEATURES,), name="hidden"
                ),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.ReLU(name="relu"),
                keras.layers.Dropout(self.options.dropout, rng_type="stateful"),
                keras.layers.Dense(CLASSES, dtype="float32", name="logits"),
            ],
            name="tiny",
        )

    def compile(self, model):
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        )

    def training_data(self, start_step):
        batch_size = self.options.batch_size
        positioned = endless(
            _examples(), EXAMPLES, self.options.seed, start_step * batch_size
        )
        examples = positioned.map(lambda position, example: example)
        return examples.batch(batch_size, drop_remainder=True)

    def evaluation_data(self, split):
        return _examples().batch(16)


def _examples():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    centers = rng.normal(size=(CLASSES, FEATURES))
    points = centers[labels] + rng.normal(size=(EXAMPLES, FEATURES))
    return tf.data.Dataset.from_tensor_slices((points.astype("float32"), labels))


class TinyRun:
    """What it takes to call `train`, as a process would anew each time."""

    def __init__(
        self,
        path,
        technique=None,
        budget=None,
        checkpoint_every_steps=None,
        **options,
    ):
        self.checkpoint_every_steps = checkpoint_every_steps
        self.task = TinyTask(**options)
        self.sparsification = Sparsification(technique, budget=budget)
        self.folder = RunFolder(path, {"technique": self.sparsification.name})
        self.model = build_model(self.task, self.sparsification)

    def train(self):
        return train(
            self.task,
            self.sparsification,
            self.model,
            self.folder,
            checkpoint_every_steps=self.checkpoint_every_steps,
        )


@pytest.fixture(scope="session")
def pruning():
    return sos.MagnitudePruning(0.75, begin_step=2, end_step=9, frequency=2)


@pytest.fixture(scope="session")
def tiny_task():
    """The class of the task."""
    return TinyTask


@pytest.fixture
def tiny_run(tmp_path):
    """Makes a run; in the folder "run" unless told otherwise."""

    def make(technique=None, folder="run", **options):
        return TinyRun(tmp_path / folder, technique, **options)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory, pruning):
    """A pruned run that was never interrupted."""
    run = TinyRun(tmp_path_factory.mktemp("finished") / "run", pruning)
    run.result = run.train()
    return run

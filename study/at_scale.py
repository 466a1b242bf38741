"""The central comparison on a GPU: a ResNet-18 and a Transformer, on real data.

  KERAS_BACKEND=jax python -m study.at_scale --output=runs/at_scale --minutes=11

Each technique at each sparsity, with Keras 3 and the steps of dense training: on
scikit-learn's handwritten digits, enlarged to 32x32 and shifted, and on the bytes of
Python's standard library. Several processes share the accelerator. No run begins after
`--minutes`; the same command does what is left. What came out is in results.csv.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable

from absl import app, flags

flags.DEFINE_string("output", "runs/at_scale", "Folder of the results.")
flags.DEFINE_list("tasks", ["images", "text"], "Which of images and text.")
flags.DEFINE_list("techniques", None, "Which techniques; all by default.")
flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95"], "Of each technique.")
flags.DEFINE_float("minutes", 11.0, "After which no run begins.")
flags.DEFINE_integer("processes", 4, "That train runs at a time.")
flags.DEFINE_integer("steps", 2000, "Of each run.")
flags.DEFINE_float("width", 1.0, "Multiplies channels and units.")
flags.DEFINE_integer("batch_size", 128, "Images, or rows of text.")
flags.DEFINE_string("precision", "mixed_bfloat16", "Policy of Keras.")
flags.DEFINE_integer("seed", 0, "Of initial values and order.")
flags.DEFINE_integer("part", None, "Which process this is: for its own use.")
FLAGS = flags.FLAGS

# Bytes in a row of text.
LENGTH = 256
SHIFT = 2


def techniques(sparsity: float, steps: int) -> dict[str, Callable]:
    """By name, what makes a model sparse: a technique, and its budget.

    Ramps and phases are in the shares of training that were published.
    """
    import state_of_sparsity as sos

    ramp = {
        "begin_step": steps // 4,
        "end_step": 3 * steps // 4,
        "frequency": max(1, steps // 100),
    }
    growth = {"end_step": 3 * steps // 4, "frequency": max(1, steps // 40)}
    phases = [steps * share // 20 for share in (*range(3, 16), 17)]
    pruning = sos.MagnitudePruning(sparsity, **ramp)
    returning = dataclasses.replace(pruning, masked_weights="return")
    erk, everywhere = sos.ERK(), sos.Global()
    steered = {"ramp_begin": 0, "ramp_length": steps // 2}
    return {
        "magnitude": (pruning, None),
        "magnitude, weights return": (returning, None),
        "magnitude, global": (pruning, everywhere),
        "random": (sos.RandomPruning(sparsity, **ramp), None),
        "saliency": (sos.SaliencyPruning(sparsity, **ramp), None),
        "RigL": (sos.RigL(sparsity, **growth), erk),
        "Feather": (sos.Feather(sparsity, 1, steps // 2), None),
        "ST-3": (sos.ST3(sparsity, 1, steps // 2), None),
        "AC/DC": (sos.ACDC(sparsity, steps // 10, phases), None),
        "variational dropout": (
            sos.VariationalDropout(sparsity=sparsity, **steered),
            None,
        ),
        "L0": (sos.L0Regularization(sparsity=sparsity, **steered), None),
    }


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
      model: a new one.
      batches: `batches(steps, rng)` yields batches to train on.
      test: inputs and targets.
      optimizer: for a number of steps.
      score: of a compiled model on the test data, by what `evaluate` gives.
      unit: of the score.
    """

    model: Callable
    batches: Callable
    test: tuple
    optimizer: Callable
    score: Callable
    unit: str


@functools.cache
def images() -> Task:
    """ResNet-18 on handwritten digits: accuracy on 360 test images."""
    import keras
    import numpy as np
    import sklearn.datasets
    import sklearn.model_selection

    from models.images.resnet import resnet

    data, labels = sklearn.datasets.load_digits(return_X_y=True)
    # As large as its neighbours: a pixel becomes four by four.
    data = np.kron(data.reshape(-1, 8, 8) / 8.0 - 1.0, np.ones((4, 4)))
    data = np.repeat(data[..., None], 3, axis=-1).astype("float32")
    train, test, train_labels, test_labels = sklearn.model_selection.train_test_split(
        data, labels, test_size=360, random_state=0, stratify=labels
    )
    edges = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
    padded = np.pad(train, edges, constant_values=-1.0)

    def batches(steps, rng):
        for _ in range(steps):
            chosen = rng.integers(len(train), size=FLAGS.batch_size)
            top, left = rng.integers(2 * SHIFT + 1, size=2)
            batch = padded[chosen, top : top + 32, left : left + 32]
            yield batch, train_labels[chosen]

    def optimizer(steps):
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps, warmup_target=0.1, warmup_steps=max(1, steps // 20)
        )
        return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)

    def model():
        return resnet(18, 10, FLAGS.width, (32, 32, 3), 5e-4, keras=keras)

    def score(loss, accuracy):
        return 100.0 * accuracy

    return Task(model, batches, (test, test_labels), optimizer, score, "% accuracy")


@functools.cache
def text() -> Task:
    """A decoder of four layers on bytes of Python's modules: bits per byte."""
    import keras
    import numpy as np

    paths = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    # Each tenth module is for the test.
    parts = [
        np.frombuffer(b"".join(p.read_bytes() for p in held), "uint8")
        for held in ([p for i, p in enumerate(paths) if i % 10], paths[::10])
    ]
    train, test = parts
    units = max(8, int(256 * FLAGS.width)) // 4 * 4
    layers = keras.layers

    def batches(steps, rng):
        for _ in range(steps):
            begins = rng.integers(len(train) - LENGTH, size=FLAGS.batch_size)
            rows = train[begins[:, None] + np.arange(LENGTH + 1)].astype("int32")
            yield rows[:, :-1], rows[:, 1:]

    def model():
        ids = keras.Input((LENGTH,), dtype="int32")
        places = keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1
        x = layers.Embedding(256, units)(ids) + layers.Embedding(LENGTH, units)(places)
        for _ in range(4):
            y = layers.LayerNormalization()(x)
            attention = layers.MultiHeadAttention(4, units // 4)
            x = x + attention(y, y, use_causal_mask=True)
            y = layers.Dense(4 * units, "gelu")(layers.LayerNormalization()(x))
            x = x + layers.Dense(units)(y)
        x = layers.Dense(256, dtype="float32")(layers.LayerNormalization()(x))
        return keras.Model(ids, x)

    def optimizer(steps):
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, steps, warmup_target=1e-3, warmup_steps=max(1, steps // 20)
        )
        return keras.optimizers.Adam(rate, clipnorm=1.0)

    def score(loss, accuracy):
        return loss / math.log(2.0)

    rows = min(512, len(test) // (LENGTH + 1))
    held = test[: rows * (LENGTH + 1)].reshape(rows, -1).astype("int32")
    return Task(
        model, batches, (held[:, :-1], held[:, 1:]), optimizer, score, "bits a byte"
    )


TASKS = {"images": images, "text": text}


def planned() -> list[tuple[str, str, float]]:
    """Task, technique and sparsity of each run, the dense ones first."""
    names = FLAGS.techniques or list(techniques(0.9, 1000))
    if unknown := set(names) - set(techniques(0.9, 1000)):
        raise app.UsageError(f"--techniques: there is no {', '.join(sorted(unknown))}.")
    dense = [(task, "dense", 0.0) for task in FLAGS.tasks]
    return dense + [
        (task, name, float(sparsity))
        for sparsity in FLAGS.sparsities
        for name in names
        for task in FLAGS.tasks
    ]


def place_of(run) -> pathlib.Path:
    """The file of a run's result."""
    task, name, sparsity = run
    plain = "".join(c if c.isalnum() else "_" for c in name)
    return pathlib.Path(FLAGS.output, f"{task}-{plain}-{sparsity}-{FLAGS.seed}.json")


def train(task: Task, name: str, sparsity: float) -> dict:
    """Trains and deploys a model; what came out."""
    import keras
    import numpy as np

    import state_of_sparsity as sos

    keras.utils.set_random_seed(FLAGS.seed)
    model = task.model()
    if name != "dense":
        technique, budget = techniques(sparsity, FLAGS.steps)[name]
        model = sos.sparsify(model, technique, budget=budget)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = task.optimizer(FLAGS.steps)
    model.compile(optimizer, loss)
    begin = time.perf_counter()
    model.fit(
        task.batches(FLAGS.steps, np.random.default_rng(FLAGS.seed)),
        steps_per_epoch=FLAGS.steps,
        shuffle=False,
        callbacks=sos.callbacks(model) if name != "dense" else [],
        verbose=0,
    )
    seconds = time.perf_counter() - begin
    deployed = model if name == "dense" else sos.strip(model)
    deployed.compile(loss=loss, metrics=["accuracy"])
    found = deployed.evaluate(*task.test, batch_size=120, verbose=0)
    kept = sos.sparsity_report(deployed).sparsity if name != "dense" else 0.0
    return {"score": task.score(*found), "sparsity": kept, "seconds": seconds}


def work(part: int) -> None:
    """What one process does: every so many-th of the runs that are left."""
    import keras

    until = time.monotonic() + 60.0 * FLAGS.minutes
    keras.config.set_dtype_policy(FLAGS.precision)
    for run in planned()[part :: FLAGS.processes]:
        path = place_of(run)
        if path.exists():
            continue
        if time.monotonic() > until:
            break
        kind, name, sparsity = run
        task = TASKS[kind]()
        row = {"task": kind, "technique": name, "target": sparsity}
        result = row | train(task, name, sparsity) | {"unit": task.unit}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(result), encoding="utf-8")
        new.rename(path)
        print(json.dumps(result), flush=True)
        keras.backend.clear_session()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    if FLAGS.part is not None:
        work(FLAGS.part)
        return
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / FLAGS.processes:.3f}"}
    command = [sys.executable, "-m", "study.at_scale", *sys.argv[1:]]
    processes = [
        subprocess.Popen([*command, f"--part={part}"], env=share | os.environ)
        for part in range(FLAGS.processes)
    ]
    failed = [process for process in processes if process.wait()]
    import pandas as pd

    done = [place_of(run) for run in planned() if place_of(run).exists()]
    table = pd.DataFrame([json.loads(path.read_text("utf-8")) for path in done])
    table.to_csv(folder / "results.csv", index=False)
    print(f"{len(done)} of {len(planned())} runs are finished: {folder}/results.csv")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)

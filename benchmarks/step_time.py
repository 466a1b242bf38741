"""Step time and memory of sparse models over those of the dense one.

The models are trained in one process, in turns of a few steps, so that whatever else
the machine does hits all of them; before that, each in a process of its own, for the
peak of its memory. Prints medians and their ratios, and the processor's seconds of the
first steps, which trace and compile. What renews masks now and then is measured between
renewals. Keras 3 takes the backend of KERAS_BACKEND, and whatever accelerator that
finds:

  KERAS_BACKEND=jax python benchmarks/step_time.py --keras=keras --model=cnn

The defaults are the model and the batch of the digits runs; at full width, and a base
Transformer, of which not all fit into one process:

  python benchmarks/step_time.py --width=1 --image_size=64 --batch_size=32 \
      --rounds=9 --steps=1
  python benchmarks/step_time.py --model=transformer --rounds=3 --steps=1 \
      --techniques=variational_dropout

What compiling takes where each layer brings renewals of its own:

  KERAS_BACKEND=jax python benchmarks/step_time.py --keras=keras --model=deep \
      --layers=60 --batch_size=8 --rounds=1 --steps=1 --memory=False
"""

import importlib
import json
import os
import subprocess
import sys
import time

import figures
import memory
import networks
import numpy as np
import turns
from absl import app, flags

import state_of_sparsity as sos

# After their ramps, where those that renew at every step go on: masks are made at the
# second step, after that of RigL and its kin no more. A few steps are taken before.
_ONCE = {"begin_step": 2, "end_step": 2, "frequency": 2}
_UPDATES = {"end_step": 2000, "frequency": 1000}
TECHNIQUES = {
    technique.technique_name(): technique
    for technique in (
        sos.MagnitudePruning(0.9, **_ONCE),
        sos.RandomPruning(0.9, **_ONCE),
        sos.VariationalDropout(1e-4),
        sos.L0Regularization(1e-4),
        sos.SaliencyPruning(0.9, **_ONCE),
        sos.MovementPruning(0.9, **_ONCE),
        sos.FisherPruning(0.9, **_ONCE),
        sos.SET(0.9, **_UPDATES),
        sos.RigL(0.9, **_UPDATES),
        sos.GraNet(0.9, initial_sparsity=0.9, **_UPDATES),
        sos.Feather(0.9, begin_step=1, end_step=2),
        sos.ST3(0.9, begin_step=1, end_step=2),
        sos.STR(-5.0, 1e-4),
        sos.ACDC(0.9, dense_steps=2),
        sos.Spartan(0.9, end_step=2, fixed_step=1000),
        sos.SRSTE((2, 4)),
    )
}

_KERAS = flags.DEFINE_enum("keras", "tf_keras", ["keras", "tf_keras"], "Which Keras.")
_MODEL = flags.DEFINE_enum("model", "resnet", list(networks.NETWORKS), "Network.")
_ROUNDS = flags.DEFINE_integer("rounds", 25, "How often the models take turns.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps per turn.")
_JIT = flags.DEFINE_enum(
    "jit", "auto", ["auto", "true", "false"], "Whether XLA compiles the steps."
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Policy."
)
_TECHNIQUES = flags.DEFINE_list("techniques", list(TECHNIQUES), "What to measure.")
_MEMORY = flags.DEFINE_bool("memory", True, "Whether memory is measured.")
_ALONE = flags.DEFINE_string(
    "alone", None, "Only the peak of memory of `dense` or of a technique, as JSON."
)
WARM_UP = 3


def is_traced():
    """Whether steps are functions of TensorFlow."""
    backend = importlib.import_module("keras").backend.backend()
    return _KERAS.value == "tf_keras" or backend == "tensorflow"


def training_steps(keras, name):
    """A call that trains `--steps` steps of a model and waits for them.

    Args:
      name: "dense", or a technique's.
    """
    network = networks.NETWORKS[_MODEL.value](keras)
    model = network.model
    if name != "dense":
        model = sos.sparsify(model, TECHNIQUES[name])
        for callback in sos.callbacks(model):
            callback.set_model(model)
            callback.on_train_begin()
    options = {} if _JIT.value == "auto" else {"jit_compile": _JIT.value == "true"}
    model.compile(network.optimizer, network.loss, **options)
    if is_traced():
        tf = importlib.import_module("tensorflow")
        function = model.make_train_function() or model.train_function
        batch = network.inputs, network.labels
        batches = iter(tf.data.Dataset.from_tensors(batch).repeat())

        def steps():
            for _ in range(_STEPS.value):
                function(batches)

        return steps
    # `train_on_batch` writes the state back after each step on JAX; `fit` does not.
    many = [
        np.concatenate([part] * _STEPS.value)
        for part in (network.inputs, network.labels)
    ]
    rows = len(network.labels)
    return lambda: model.fit(*many, batch_size=rows, verbose=0, shuffle=False)


def peak_memory() -> float:
    """The most MiB taken so far: of the accelerator, or else of the process."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if not is_traced() and backend == "jax":
        taken = importlib.import_module("jax").devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in taken:
            return taken["peak_bytes_in_use"] / 2**20
    if not is_traced() and backend == "torch":
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    return memory.peak()


def memory_alone(name):
    """The peak of a process that trains one model."""
    # Of a flag that is there twice, the last one counts.
    command = [sys.executable, *sys.argv, f"--alone={name}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def of_memory(names):
    """Peaks of memory, and those of the techniques over that of the dense model."""
    peaks = {name: memory_alone(name) for name in names}
    found = [figures.Figure(name, "MiB at most", peak) for name, peak in peaks.items()]
    return found + [
        figures.Figure(name, "memory over dense", peak / peaks["dense"])
        for name, peak in peaks.items()
        if name != "dense"
    ]


def of_time(keras, names):
    """Times of the first steps, and of later ones, in turns."""
    steps = {name: training_steps(keras, name) for name in names}
    first = {name: processor_seconds(step) for name, step in steps.items()}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times = turns.take_turns(steps, _ROUNDS.value)
    found = figures.of_times(
        {n: [seconds / _STEPS.value for seconds in all_] for n, all_ in times.items()}
    )
    for name, seconds in first.items():
        found.append(figures.Figure(name, "s at first", seconds))
        if name != "dense":
            ratio = seconds / first["dense"]
            found.append(figures.Figure(name, "at first over dense", ratio))
    return found


def processor_seconds(step):
    """Of all threads, which other processes do not slow down."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    if unknown := set(_TECHNIQUES.value) - set(TECHNIQUES):
        known = ", ".join(TECHNIQUES)
        raise app.UsageError(
            f"--techniques must be some of {known}. Received: {', '.join(unknown)}"
        )
    names = ["dense", *_TECHNIQUES.value]
    found = of_memory(names) if _MEMORY.value and not _ALONE.value else []
    keras = importlib.import_module(_KERAS.value)
    if _KERAS.value == "tf_keras":
        keras.mixed_precision.set_global_policy(_PRECISION.value)
    else:
        keras.config.set_dtype_policy(_PRECISION.value)
    if _ALONE.value:
        training_steps(keras, _ALONE.value)()
        print(json.dumps(peak_memory()))
    else:
        figures.publish(of_time(keras, names) + found)


if __name__ == "__main__":
    app.run(main)

"""What SparseGPT takes for a GPT-2 of 124 million random weights: memory and time.

  KERAS_BACKEND=torch python benchmarks/one_shot_cost.py --examples=4,16

Prints, by number of examples, the seconds and the most memory of a process of its own
that prunes the model; the first is of one that builds it, and runs it, alone.
"""

import json
import subprocess
import sys
import time
import warnings

import figures
import keras_hub
import memory
import numpy as np
from absl import app, flags

import state_of_sparsity as sos

_EXAMPLES = flags.DEFINE_list("examples", ["4", "16"], "To calibrate with.")
_LENGTH = flags.DEFINE_integer("length", 128, "Tokens of an example.")
_LAYERS = flags.DEFINE_integer("layers", 12, "Of the model.")
_REFIT = flags.DEFINE_bool("refit", True, "Whether weights are solved for anew.")
_ALONE = flags.DEFINE_integer(
    "alone", None, "The figures of a number of examples, as JSON; 0: of the model."
)
VOCABULARY = 50_257


def alone(number):
    """Seconds, and MiB at most, of a process that does nothing else."""
    model = keras_hub.models.GPT2Backbone(
        VOCABULARY, _LAYERS.value, 12, 768, 3072, max_sequence_length=1024
    )
    shape = max(number, 1), _LENGTH.value
    ids = np.random.default_rng(0).integers(0, VOCABULARY, shape)
    data = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    begin = time.perf_counter()
    if number:
        with warnings.catch_warnings():
            # A few examples have fewer tokens than the widest layer has inputs.
            warnings.simplefilter("ignore", UserWarning)
            technique, dense = sos.SparseGPT(0.5), {".*embedding.*": None}
            sos.one_shot(
                model,
                technique,
                data,
                overrides=dense,
                refit=_REFIT.value,
                batch_size=1,
            )
    else:
        model.predict(data, batch_size=1, verbose=0)
    return time.perf_counter() - begin, memory.peak()


def main(argv):
    del argv
    if _ALONE.value is not None:
        print(json.dumps(alone(_ALONE.value)))
        return
    found = []
    for number in [0, *map(int, _EXAMPLES.value)]:
        command = [sys.executable, *sys.argv, f"--alone={number}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        case = f"{number} examples" if number else "the model alone"
        found.append(figures.Figure(case, "s", seconds))
        found.append(figures.Figure(case, "MiB at most", peak))
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)

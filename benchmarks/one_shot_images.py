"""What is left of finished dense runs on images after pruning them in one shot.

  python benchmarks/one_shot_images.py --runs=runs/dense-0,runs/dense-1

For each technique, with and without weights that are solved for anew: accuracy on the
test split as it is, and after `sos.recalibrate`. The last layer is pruned as well.
"""

import pathlib

import figures
import numpy as np
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.models.runs import folders

_RUNS = flags.DEFINE_list("runs", [], "Folders of finished runs.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.9, "Of all layers, by ERK.")
_BATCHES = flags.DEFINE_integer("batches", 8, "Of training data, to calibrate with.")


def accuracy(task, model):
    right = [
        np.argmax(model(images, training=False), -1) == labels
        for images, labels in task.evaluation_data("test")
    ]
    return 100 * np.mean(np.concatenate(right))


def techniques():
    share = _SPARSITY.value
    yield "magnitude", sos.MagnitudePruning(share, 0, 0, 1), False
    yield "magnitude, refit", sos.MagnitudePruning(share, 0, 0, 1), True
    yield "Wanda, refit", sos.Wanda(share), True
    yield "SparseGPT", sos.SparseGPT(share), False
    yield "SparseGPT, refit", sos.SparseGPT(share), True


def main(argv):
    del argv
    found = []

    def note(case, quantity, value):
        found.append(figures.Figure(case, quantity, value))

    for folder in _RUNS.value:
        task, model = folders.load_model(*folders.read_run(folder))
        name = pathlib.Path(folder).name
        batches = iter(task.training_data(0))
        parts = [next(batches)[0].numpy() for _ in range(_BATCHES.value)]
        images = np.concatenate(parts)
        note(f"{name}, dense", "%", accuracy(task, model))
        for technique, instance, refit in techniques():
            sparse = sos.one_shot(model, instance, images, sos.ERK(), refit=refit)
            case = f"{name}, {technique}"
            note(case, "%", accuracy(task, sparse))
            sos.recalibrate(sparse, images)
            note(case, "% recalibrated", accuracy(task, sparse))
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)

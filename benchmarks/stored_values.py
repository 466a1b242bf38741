"""What rounding weights in sparse files does to the quality of finished runs.

  python benchmarks/stored_values.py --runs=runs/resnet50,runs/transformer

For each run and each way to store values: quality on the test split, as the runtime
computes it, and how much smaller the file is than the dense weights in 32 bits.
"""

import pathlib
import tempfile

import figures
import numpy as np
from absl import app, flags

import state_of_sparsity as sos
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.translation.sparse_engine import (
    DECODER,
    SparseTransformer,
    write_sparse,
)
from state_of_sparsity.runtime.files import VALUES

_RUNS = flags.DEFINE_list("runs", [], "Folders of finished runs.")


def of_images(task, model, values):
    """Accuracy in %, and the bytes of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.sparse")
        sos.export(model, path, format="sparse", values=values)
        session = sos.runtime.load(path)
        right = [
            np.argmax(next(iter(session.run(images.numpy()).values())), -1) == labels
            for images, labels in task.evaluation_data("test")
        ]
        return 100 * np.mean(np.concatenate(right)), path.stat().st_size


def of_translation(task, model, values):
    """BLEU, and the bytes of the files."""
    with tempfile.TemporaryDirectory() as folder:
        write_sparse(model, pathlib.Path(folder, DECODER), values)
        sizes = [path.stat().st_size for path in pathlib.Path(folder).iterdir()]
        sparse = SparseTransformer(model, folder=folder)
    return task.evaluate(sparse, "test"), sum(sizes)


def main(argv):
    del argv
    found = []
    for folder in _RUNS.value:
        task, model = folders.load_model(*folders.read_run(folder))
        model = sos.strip(model)
        dense = 4 * model.count_params()
        is_translation = hasattr(task, "translator")
        score = of_translation if is_translation else of_images
        for values in VALUES:
            quality, size = score(task, model, values)
            case = f"{pathlib.Path(folder).name}, {values}"
            name = "BLEU" if is_translation else "accuracy, %"
            found += [
                figures.Figure(case, name, quality),
                figures.Figure(case, "times smaller", dense / size),
            ]
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)

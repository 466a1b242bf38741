"""The comparison for a GPU, at a size for a CPU."""

import os
import pathlib
import subprocess
import sys

import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_each_task_is_trained_once_and_its_results_are_a_table(tmp_path):
    tiny = ("--steps=20", "--width=0.05", "--batch_size=2", "--precision=float32")
    which = ("--techniques=magnitude", "--sparsities=0.9", "--processes=1")
    command = [sys.executable, "-m", "study.at_scale", *tiny, *which]

    def run():
        done = subprocess.run(
            [*command, f"--output={tmp_path}"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
        )
        assert "4 of 4 runs are finished" in done.stdout
        return done.stdout

    assert run().count('"score"') == 4
    table = pd.read_csv(tmp_path / "results.csv")
    assert set(table.task) == {"images", "text"}
    pruned = table[table.technique == "magnitude"]
    assert pruned.sparsity.tolist() == pytest.approx([0.9, 0.9], abs=0.01)
    assert '"score"' not in run()

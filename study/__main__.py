"""Trains the runs of the study and writes docs/study.md.

  python -m study --study_dir=runs/study --processes=2

The same command goes on after an interruption.
"""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import signal
import sys

from absl import app as absl_app
from absl import flags

from state_of_sparsity.bin.sweep import command
from state_of_sparsity.models.sweeps import sweep
from state_of_sparsity.models.sweeps.processes import LocalProcesses
from state_of_sparsity.models.training.run_folder import RunFolder
from study import labs, page
from study.claims import judge
from study.plan import stages
from study.results import Results, merit, tried

_STUDY_DIR = flags.DEFINE_string("study_dir", "runs/study", "The runs' folders.")
_DOCS = flags.DEFINE_string("docs", "docs", "Where study.md is written.")
_LABS = flags.DEFINE_list("datasets", list(labs.LABS), "Which of the datasets.")
_PROCESSES = flags.DEFINE_integer("processes", 2, "Runs at a time.")
_PACKAGES = ("state-of-sparsity", "tensorflow", "tf-keras")
_PACKAGES += ("tensorflow-model-optimization", "mnist1d")


def main(argv):
    del argv
    # As Ctrl-C, which lets runs save what they have.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = {name: labs.LABS[name] for name in _LABS.value}
    runs, trials, results = {}, {}, {}
    for name, lab in chosen.items():
        folder = _folder(name)
        by = functools.partial(merit, folder)
        runs[name] = []
        for number, stage in enumerate(stages(lab, folder, by), start=1):
            print(f"{name}, stage {number}: {len(stage)} runs")
            _train(stage, folder)
            runs[name] += stage
        trials[name] = tried(runs[name], folder)
        results[name] = Results([r for r in runs[name] if r.trial is None], folder)
    how = _how(runs, _finished(runs))
    docs = pathlib.Path(_DOCS.value)
    page.write(results, chosen, trials, judge(results), how, docs)
    print(f"{_DOCS.value}/study.md is written.")


def _folder(name):
    """Of the runs on a dataset."""
    return pathlib.Path(_STUDY_DIR.value, name)


def _train(stage, folder):
    wanted = [run.configuration for run in stage]
    processes = LocalProcesses(folder, _PROCESSES.value, command)
    failed = sweep.train(wanted, folder, processes)
    if failed:
        print("\n".join(sweep.said(failed)))
        sys.exit("Run the same command again once their cause is gone.")


def _finished(runs):
    """The day on which the last of the runs was finished."""
    newest = max(
        RunFolder(_folder(name) / run.configuration.name).result.stat().st_mtime
        for name, of_lab in runs.items()
        for run in of_lab
    )
    return datetime.datetime.fromtimestamp(newest, datetime.UTC).date()


def _how(runs, finished):
    """What a reader has to know to compare figures."""
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in _PACKAGES)
    return {
        "command": "`make study`",
        "runs": ", ".join(f"{len(r)} on {name}" for name, r in runs.items()),
        "versions": f"Python {platform.python_version()}, {versions}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, no GPU, "
        f"{_PROCESSES.value} runs at a time",
        "finished": finished.isoformat(),
    }


if __name__ == "__main__":
    absl_app.run(main)

"""Trains a grid of runs, or a list of flagfiles, each with several seeds.

  sweep --binary=train_resnet50 --output_dir=runs/sweep
      --grid=technique=magnitude_pruning,random_pruning --grid=sparsity=0.8,0.9,0.95
      --seeds=0,1,2 --fixed=dataset=mnist1d --jobs=2

A folder for each run, named by a hash of its flags; runs.csv lists them. The same
command trains what is not finished yet: it goes on after an interruption, or with a
larger grid. Runs that fail are listed with the last line of their log.
"""

import csv
import io
import pathlib
import sys

import tqdm
from absl import flags
from tensorboard.plugins.hparams import api as hparams

from state_of_sparsity.bin import app, configurations
from state_of_sparsity.bin.configurations import Configuration
from state_of_sparsity.bin.pool import LocalPool, RayPool, log_of
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.runs.run import TRAINERS
from state_of_sparsity.models.training.loop.summaries import show_result
from state_of_sparsity.models.training.run_folder import (
    RunFolder,
    RunFolderError,
    write_text,
)

flags.DEFINE_enum("binary", "train_resnet50", list(TRAINERS), "That trains them.")
flags.DEFINE_string("output_dir", "runs/sweep", "The folder of the runs' folders.")
flags.DEFINE_multi_string(
    "grid", [], "FLAG=VALUE,VALUE,...: one axis of the grid. Can be repeated."
)
flags.DEFINE_list("seeds", ["0"], "Values of --seed: each configuration has all.")
flags.DEFINE_multi_string(
    "fixed", [], "FLAG=VALUE: the same for all runs; may have commas. Can be repeated."
)
flags.DEFINE_list("flagfiles", [], "The grid is trained for each of these flagfiles.")
flags.DEFINE_integer(
    "jobs", 1, "Runs at a time; they share the cores of the machine.", lower_bound=1
)
flags.DEFINE_integer(
    "runs_per_process",
    1,
    "Runs that share a process, one after the other: for runs that are shorter than "
    "TensorFlow's start.",
    lower_bound=1,
)
flags.DEFINE_string(
    "ray_address",
    None,
    "Trains on this Ray cluster: local, auto, or ray://HOST:PORT. Its nodes have to "
    "see --output_dir. (extra: sweep)",
)
FINISHED = ("quality_metric", "quality", "sparsity", "seconds_per_step")


def main():
    values = flags.FLAGS
    wanted = configurations.of_grid(
        values.binary, values.grid, values.seeds, values.fixed, values.flagfiles
    )
    for configuration in wanted:
        configuration.check()
    folder = pathlib.Path(values.output_dir)
    failed = train(
        wanted, folder, values.jobs, values.runs_per_process, values.ray_address
    )
    print(f"{len(wanted) - len(failed)} of {len(wanted)} runs are finished: {folder}")
    if failed:
        print("\n".join(said(failed)))
        sys.exit(1)


def train(
    wanted: list[Configuration],
    folder: pathlib.Path,
    jobs: int,
    runs_per_process: int = 1,
    ray_address: str | None = None,
) -> dict[Configuration, str]:
    """Trains the runs that are not finished, several at a time.

    Args:
      wanted: all runs of the sweep.
      folder: of their folders; runs.csv and what TensorBoard shows of them are
        written into it.
      jobs: runs at a time.
      runs_per_process: see `LocalPool`.
      ray_address: see `RayPool`.

    Returns:
      What went wrong with those that failed: the last line of their log, or why it
      has none.
    """
    left = [c for c in wanted if not RunFolder(folder / c.name).is_finished]
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"--output_dir={folder} cannot be written ({error.strerror}): choose "
            "another."
        ) from error
    _describe(wanted, folder)
    failed = {}
    pool = (
        RayPool(folder, ray_address, jobs)
        if ray_address
        else LocalPool(folder, min(jobs, len(left) or 1), runs_per_process)
    )
    bar = tqdm.tqdm(total=len(wanted), initial=len(wanted) - len(left), unit="run")
    try:
        with bar:
            for configuration, error in pool.train(left):
                bar.update()
                if error is not None:
                    failed[configuration] = _last_line(folder, configuration) or error
                    bar.set_postfix(failed=len(failed))
                else:
                    show_result(
                        RunFolder(folder / configuration.name),
                        configuration.varied,
                        configuration.name,
                    )
    finally:
        _write_table(wanted, folder)
    return failed


def _last_line(folder, configuration):
    log = log_of(folder, configuration)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def said(failed):
    yield f"{len(failed)} failed:"
    for configuration, error in failed.items():
        yield f"  {configuration.name}  {configuration.title}: {error}"


def _write_table(wanted, folder):
    """runs.csv: a row per run, what varies, whether it is finished, what came out."""
    varied = list(dict.fromkeys(name for c in wanted for name in c.varied))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["folder", *varied, "status", *FINISHED])
    for configuration in wanted:
        run = RunFolder(folder / configuration.name)
        result = run.read_result() if run.is_finished else {}
        status = _status(run)
        values = [configuration.varied.get(name, "") for name in varied]
        scores = [result.get(name, "") for name in FINISHED]
        writer.writerow([configuration.name, *values, status, *scores])
    write_text(folder / "runs.csv", table.getvalue())


def _status(run):
    if run.is_finished:
        return "finished"
    if run.failure.is_file():
        return "failed"
    return "started" if run.flags.is_file() else "missing"


def _describe(wanted, folder):
    """Tells TensorBoard's HParams tab what varies, and what came out."""
    names = dict.fromkeys(name for c in wanted for name in c.varied)
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams.hparams_config(
            hparams=[
                hparams.HParam(
                    name,
                    hparams.Discrete(
                        sorted({c.varied[name] for c in wanted if name in c.varied})
                    ),
                )
                for name in names
            ],
            metrics=[hparams.Metric(name) for name in ("quality", "sparsity")],
        )


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()

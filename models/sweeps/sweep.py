"""A sweep: a folder for each run, a table of them, and what TensorBoard shows."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

import pandas as pd
import tqdm
from tensorboard.plugins.hparams import api as hparams

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.sweeps.configurations import Configuration
from state_of_sparsity.models.sweeps.processes import (
    LocalProcesses,
    RayProcesses,
    log_of,
)
from state_of_sparsity.models.training.loop.summaries import show_result
from state_of_sparsity.models.training.run_folder import (
    RunFolder,
    RunFolderError,
    write_text,
)

FINISHED = ("quality_metric", "quality", "sparsity", "seconds_per_step")


def train(
    wanted: list[Configuration],
    folder: pathlib.Path,
    processes: LocalProcesses | RayProcesses,
) -> dict[Configuration, str]:
    """Trains the runs that are not finished.

    Args:
      wanted: all runs of the sweep.
      folder: of their folders; runs.csv and what TensorBoard shows of them are
        written into it.
      processes: that train them; if this is interrupted, they save what they have.

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
    done, failed = len(wanted) - len(left), {}
    try:
        with (
            tqdm.tqdm(total=len(wanted), initial=done, unit="run") as bar,
            contextlib.closing(processes.train(left)) as ending,
        ):
            for configuration, error in ending:
                bar.update()
                if error is not None:
                    failed[configuration] = _last_line(folder, configuration) or error
                    bar.set_postfix(failed=len(failed))
                else:
                    run = RunFolder(folder / configuration.name)
                    show_result(run, configuration.varied, configuration.name)
    finally:
        write_text(folder / "runs.csv", _table(wanted, folder).to_csv(index=False))
    return failed


def _last_line(folder, configuration):
    log = log_of(folder, configuration)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def said(failed: Mapping[Configuration, str]) -> Iterator[str]:
    """What a sweep says of the runs that failed."""
    yield f"{len(failed)} failed:"
    for configuration, error in failed.items():
        yield f"  {configuration.name}  {configuration.title}: {error}"


def _table(wanted, folder):
    """A row per run: what varies, whether it is finished, what came out."""
    rows = []
    for configuration in wanted:
        run = RunFolder(folder / configuration.name)
        result = run.read_result() if run.is_finished else {}
        scores = {name: result.get(name) for name in FINISHED}
        own = {"folder": configuration.name, "status": _status(run)}
        rows.append({**own, **configuration.varied, **scores})
    return pd.DataFrame(rows)[["folder", *_varied(wanted), "status", *FINISHED]]


def _varied(wanted) -> dict[str, list[str]]:
    """The flags in which runs differ, and their values."""
    names = dict.fromkeys(name for c in wanted for name in c.varied)
    return {n: sorted({c.varied[n] for c in wanted if n in c.varied}) for n in names}


def _status(run):
    if run.is_finished:
        return "finished"
    if run.failure.is_file():
        return "failed"
    return "started" if run.flags.is_file() else "missing"


def _describe(wanted, folder):
    """Tells TensorBoard's HParams tab what varies, and what came out."""
    domains = {name: hparams.Discrete(v) for name, v in _varied(wanted).items()}
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams.hparams_config(
            hparams=[hparams.HParam(name, domain) for name, domain in domains.items()],
            metrics=[hparams.Metric(name) for name in ("quality", "sparsity")],
        )

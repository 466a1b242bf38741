"""Processes that train runs: on this machine, or on a Ray cluster."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

from state_of_sparsity.models.sweeps.configurations import Configuration

# The command line of a run that has its place in the folder of a sweep.
Command = Callable[[pathlib.Path, Configuration], list[str]]


def log_of(folder: pathlib.Path, configuration: Configuration) -> pathlib.Path:
    """Where a run's output goes: beside the runs' folders, which hold nothing else."""
    return folder / "logs" / f"{configuration.name}.log"


class LocalProcesses:
    """Trains runs on this machine, a process for each.

    Args:
      folder: of the sweep.
      jobs: runs at a time.
      command: of a run.
    """

    def __init__(self, folder: pathlib.Path, jobs: int, command: Command):
        self._folder, self._jobs, self._command = folder, jobs, command
        self._processes: list[subprocess.Popen] = []
        self._lock, self._has_ended = threading.Lock(), False

    def train(
        self, configurations: list[Configuration]
    ) -> Iterator[tuple[Configuration, str | None]]:
        """Yields each run as it ends, with what went wrong, or None."""
        self._jobs = max(1, min(self._jobs, len(configurations)))
        executor = concurrent.futures.ThreadPoolExecutor(self._jobs)
        pending = {executor.submit(self.run, c): c for c in configurations}
        try:
            for future in concurrent.futures.as_completed(pending):
                yield pending[future], future.result()
        finally:
            with self._lock:
                self._has_ended = True
            # Runs that are not finished save what they have.
            for process in self._processes:
                process.terminate()
            executor.shutdown(cancel_futures=True)

    def run(self, configuration: Configuration) -> str | None:
        """Trains a run to its end; returns what went wrong, if anything did."""
        with log_of(self._folder, configuration).open("ab") as log:
            with self._lock:
                if self._has_ended:
                    return "the sweep was interrupted"
                process = subprocess.Popen(
                    self._command(self._folder, configuration),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    # Ctrl-C is for the sweep, which tells its processes.
                    start_new_session=True,
                )
                self._processes.append(process)
            code = process.wait()
        if code < 0:
            return f"its process ended with signal {signal.Signals(-code).name}"
        return f"its process ended with exit status {code}" if code else None

    def _environment(self):
        """Several runs share the cores instead of fighting for all of them."""
        # Set by this process; a binary silences TensorFlow's start by itself.
        own = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        if self._jobs == 1:
            return own
        cores = max(1, len(os.sched_getaffinity(0)) // self._jobs)
        threads = {"TF_NUM_INTRAOP_THREADS": str(cores), "OMP_NUM_THREADS": str(cores)}
        return threads | own


class RayProcesses:
    """Trains runs on a Ray cluster, whose nodes see the sweep's folder.

    Args:
      folder: of the sweep.
      jobs: runs at a time on a node, as shares of its GPUs if it has some, and else of
        its cores.
      command: of a run.
      address: of the cluster, as of `ray.init`; "local" starts one on this machine.

    Raises:
      ValueError, ConnectionError: if Ray is not installed, or there is no such cluster.
    """

    def __init__(self, folder: pathlib.Path, jobs: int, command: Command, address: str):
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                "it needs Ray: pip install 'state-of-sparsity[sweep]'"
            ) from error
        self._ray = ray
        self._arguments = folder.absolute(), 1, command
        ray.init(address, logging_level="ERROR", log_to_driver=False)
        resources = ray.cluster_resources()
        kind = "num_gpus" if resources.get("GPU") else "num_cpus"
        total = resources.get("GPU") or resources["CPU"]
        each = total / len(ray.nodes()) / jobs
        self._share = {kind: each if each < 1 else int(each)}

    def train(
        self, configurations: list[Configuration]
    ) -> Iterator[tuple[Configuration, str | None]]:
        """Yields each run as it ends, with what went wrong, or None."""
        remote = self._ray.remote(**self._share, max_retries=0)(_run)
        pending = {remote.remote(self._arguments, c): c for c in configurations}
        try:
            while pending:
                (done,), _ = self._ray.wait(list(pending))
                configuration = pending.pop(done)
                try:
                    yield configuration, self._ray.get(done)
                except self._ray.exceptions.RayError as error:
                    yield configuration, str(error).strip().splitlines()[-1]
        finally:
            for task in pending:
                self._ray.cancel(task, force=True)
            self._ray.shutdown()


def _run(arguments, configuration):
    """Trains a run in a process of its own, which a node of the cluster starts."""
    return LocalProcesses(*arguments).run(configuration)

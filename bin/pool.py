"""Runs that are trained at the same time: in processes here, or on a Ray cluster."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from state_of_sparsity.bin.configurations import Configuration
from state_of_sparsity.bin.flags import UsageError

_WORKER = [sys.executable, "-m", "state_of_sparsity.bin.worker"]


def arguments_in(folder: pathlib.Path, configuration: Configuration) -> list[str]:
    """The command line of a run that has its place in the folder of a sweep."""
    return [*configuration.arguments, f"--output_dir={folder / configuration.name}"]


def log_of(folder: pathlib.Path, configuration: Configuration) -> pathlib.Path:
    """Where a run's output goes: beside the runs' folders, which hold nothing else."""
    return folder / "logs" / f"{configuration.name}.log"


class LocalPool:
    """Trains runs in processes of this machine.

    Args:
      folder: of the sweep.
      jobs: runs at a time.
      runs_per_process: how many runs a process trains before another takes its place.
        More than one saves the seconds that it takes to start TensorFlow.
    """

    def __init__(self, folder: pathlib.Path, jobs: int, runs_per_process: int = 1):
        self._folder = folder
        self._runs_per_process = runs_per_process
        self._jobs = jobs
        self._own = threading.local()
        self._processes: set[subprocess.Popen] = set()
        self._ended = False

    def train(
        self, configurations: list[Configuration]
    ) -> Iterator[tuple[Configuration, str | None]]:
        """Yields each run as it ends, with what went wrong, or None."""
        executor = concurrent.futures.ThreadPoolExecutor(self._jobs)
        pending = {executor.submit(self._train, c): c for c in configurations}
        try:
            for future in concurrent.futures.as_completed(pending):
                yield pending[future], future.result()
        finally:
            self._ended = True
            for future in pending:
                future.cancel()
            self._end_processes()
            executor.shutdown()

    def _end_processes(self):
        """Lets runs save what they have; a worker ends by the same signal."""
        for process in list(self._processes):
            if process.poll() is None:
                process.terminate()
        for process in list(self._processes):
            process.wait()

    def _train(self, configuration):
        process = self._process()
        log = log_of(self._folder, configuration)
        job = {
            "binary": configuration.binary,
            "arguments": arguments_in(self._folder, configuration),
            "log": str(log.absolute()),
        }
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            self._processes.discard(process)
            self._own.process = None
            return f"its process ended with {_in_words(process.wait())}"
        self._own.left -= 1
        return json.loads(answer)

    def _process(self):
        """The thread's own process, a new one if that has had its runs."""
        process = getattr(self._own, "process", None)
        if process is not None and not self._own.left:
            process.stdin.close()
            process.wait()
            self._processes.discard(process)
            process = None
        if process is None:
            if self._ended:
                raise concurrent.futures.CancelledError
            process = subprocess.Popen(
                _WORKER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self._environment(),
                # Ctrl-C is for the sweep, which tells its processes.
                start_new_session=True,
            )
            self._processes.add(process)
            self._own.process, self._own.left = process, self._runs_per_process
        return process

    def _environment(self):
        """Several runs share the cores instead of fighting for all of them."""
        # Set by this process; a worker silences TensorFlow's start by itself.
        own = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        if self._jobs == 1:
            return own
        cores = max(1, len(os.sched_getaffinity(0)) // self._jobs)
        threads = {"TF_NUM_INTRAOP_THREADS": str(cores), "OMP_NUM_THREADS": str(cores)}
        return threads | own


def _in_words(code):
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class RayPool:
    """Trains runs on a Ray cluster, whose nodes see the sweep's folder.

    Args:
      folder: of the sweep.
      address: of the cluster, as of `ray.init`; "local" starts one on this machine.
      jobs: runs at a time on a node, as shares of its GPUs if it has some, and else of
        its cores.

    Raises:
      UsageError: if Ray is not installed, or there is no such cluster.
    """

    def __init__(self, folder: pathlib.Path, address: str, jobs: int):
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "--ray_address needs Ray: pip install 'state-of-sparsity[sweep]'"
            ) from error
        self._ray = ray
        self._folder = folder.absolute()
        try:
            ray.init(address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise UsageError(f"--ray_address={address}: {error}") from error
        resources = ray.cluster_resources()
        kind = "num_gpus" if resources.get("GPU") else "num_cpus"
        total = resources.get("GPU") or resources["CPU"]
        each = total / len(ray.nodes()) / jobs
        self._share = {kind: each if each < 1 else int(each)}

    def train(
        self, configurations: list[Configuration]
    ) -> Iterator[tuple[Configuration, str | None]]:
        """Yields each run as it ends, with what went wrong, or None."""
        remote = self._ray.remote(**self._share, max_retries=0)(_train_alone)
        pending = {remote.remote(self._folder, c): c for c in configurations}
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


def _train_alone(folder, configuration):
    """A run in a process of its own, which a node of the cluster starts."""
    pool = LocalPool(folder, jobs=1)
    ((_, error),) = pool.train([configuration])
    return error

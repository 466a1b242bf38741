"""The files of a run's folder, and whether a run may go on in it.

    flags.txt        a flagfile that repeats the run
    checkpoints/     the state of training
    best/            the same, of the evaluation of best quality
    weights/         of step 0, and of those that the run was told to keep
    tensorboard/     scalars
    metrics.csv      a row per evaluation
    result.json      what came out; written last, so that it marks a finished run
    layers.csv       the sparsity report
    masks.npz        which weights stay
    sparsity.png     sparsity by layer
    thresholds.csv   written by evaluation: sparsity and quality by threshold
    export/          the stripped SavedModel
    vocabulary.model of translation: the SentencePiece model, or the file of --subwords
    failed.txt       why a run failed; gone as soon as it goes on
    imported.json    of a model that was trained elsewhere: where it is from
    rounds/          of iterative pruning: a folder such as this one for each round but
                     the last, which is the run's own; without a metrics.csv

    .lock            while a process trains there: who holds it

Files are written under another name and renamed, so that each is there as a whole or
not at all.
"""

import contextlib
import csv
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Self

import state_of_sparsity as sos

LOCK = ".lock"
# The penalties are those of techniques that learn; others leave them empty.
METRICS = (
    "step",
    "epoch",
    "loss",
    "quality",
    "sparsity",
    "seconds_per_step",
    "validation_loss",
    "learning_rate",
    "penalty",
    "penalty_weight",
)
# What `atomic.replacing`, `write_text` and TensorFlow leave when they are killed.
_HALF_WRITTEN = re.compile(r"\..+(-[a-z0-9_]{8}|\.new)|ckpt-\d+_temp.*")


class RunFolderError(Exception):
    """The folder cannot be used for this run; the message says why and what to do."""


class DamagedError(RunFolderError, ValueError):
    """A file of the run is not what a run writes."""


class RunFolder:
    """A run's folder on disk.

    Args:
      path: of the folder; it is made when the run is started.
      settings: the flags that make the run what it is, as text; a list for a flag
        that is repeated.
      header: a line of text for the head of flags.txt.
      whole: the folder of the whole run, if this one is of a part of it: there the
        metrics of all parts are.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: Mapping[str, str | list[str]] | None = None,
        header: str = "",
        whole: Self | None = None,
    ):
        self.path = pathlib.Path(path)
        self._lines = [
            f"--{name}={text}"
            for name, value in (settings or {}).items()
            for text in (value if isinstance(value, list) else [value])
        ]
        self._header = header
        self._whole = whole
        self.flags = self.path / "flags.txt"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.weights = self.path / "weights"
        self.tensorboard = self.path / "tensorboard"
        self.metrics = (whole or self).path / "metrics.csv"
        self.result = self.path / "result.json"
        self.layers = self.path / "layers.csv"
        self.masks = self.path / "masks.npz"
        self.picture = self.path / "sparsity.png"
        self.thresholds = self.path / "thresholds.csv"
        self.export = self.path / "export"
        self.vocabulary = self.path / "vocabulary.model"
        self.source = self.path / "imported.json"
        self.failure = self.path / "failed.txt"

    @property
    def settings(self) -> dict[str, str]:
        """What the run is, as `read_flags` has it once it is started."""
        return _by_name(self._lines)

    def round(
        self,
        number: int,
        settings: Mapping[str, str | list[str]] | None = None,
        header: str = "",
    ) -> Self:
        """The folder of a round of iterative pruning, but for the last one."""
        path = self.path / "rounds" / str(number)
        return RunFolder(path, settings, header, whole=self)

    @property
    def is_finished(self) -> bool:
        """Whether there is a result, and it can be read."""
        try:
            return self.result.is_file() and bool(self.read_result())
        except DamagedError:
            return False

    def check_same_run(self) -> None:
        """Raises unless the folder is free, or holds a run of the same settings.

        Raises:
          RunFolderError: listing the flags that differ; or if what it holds was not
            trained here, or cannot be read.
        """
        if not self.path.exists():
            if self.path.is_symlink():
                raise RunFolderError(
                    f"{self.path} is a link that leads nowhere: choose another "
                    "--output_dir."
                )
            return
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: choose another --output_dir.")
        if not self.flags.is_file():
            if any(path.name != LOCK for path in self.path.iterdir()):
                raise RunFolderError(
                    f"{self.path} holds files but no run (it has no flags.txt): "
                    "choose another --output_dir."
                )
            return
        if self.source.is_file():
            raise RunFolderError(
                f"{self.path} holds a model that was imported (imported.json), and not "
                "a run to go on with: choose another --output_dir."
            )
        self.check_version()
        there, now = self.read_flags(), _by_name(self._lines)
        differing = [
            f"  --{name}: {there.get(name, '(not set)')} in the folder, "
            f"{now.get(name, '(not set)')} now"
            for name in sorted({*there, *now})
            if there.get(name) != now.get(name)
        ]
        if differing:
            raise RunFolderError(
                "\n".join(
                    [
                        f"{self.path} holds a run with other flags. Choose another "
                        "--output_dir, or give the flags of that run:",
                        *differing,
                    ]
                )
            )

    @property
    def header(self) -> str:
        """The first line of flags.txt, which says what wrote it."""
        return self._read_flags_text().partition("\n")[0]

    def check_version(self) -> None:
        """Raises RunFolderError unless this version can read what began the run."""
        text = self._read_flags_text()
        found = re.search(r"^# Begun with (state-of-sparsity \S+)\.$", text, re.M)
        begun = found[1] if found else "a version that is not known"
        here = f"state-of-sparsity {sos.__version__}"
        # Patches read what the others have written.
        if begun.split(".")[:2] != here.split(".")[:2]:
            raise RunFolderError(
                f"{self.path} holds a run that was begun with {begun}, and this is "
                f"{sos.__version__}: go on with that version, or choose another folder."
            )

    def start(self) -> None:
        """Makes the folder and writes flags.txt, unless they are there.

        Raises:
          RunFolderError: if the folder cannot be written.
        """
        if self._whole is not None:
            self._whole.start()
        with self.errors_of_writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.flags.exists():
                version = f"# Begun with state-of-sparsity {sos.__version__}."
                text = "\n".join([f"# {self._header}", version, *self._lines, ""])
                write_text(self.flags, text)
            elif not os.access(self.path, os.W_OK):
                raise PermissionError("permission denied")
            self.failure.unlink(missing_ok=True)
            self._remove_what_is_half_written()

    def _remove_what_is_half_written(self):
        for place in (self.path, self.weights, self.checkpoints, self.best):
            for path in place.iterdir() if place.is_dir() else ():
                if _HALF_WRITTEN.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def errors_of_writing(self) -> Iterator[None]:
        """Raises RunFolderError where the folder cannot be written."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"--output_dir={self.path} cannot be written ({error}): choose another."
            ) from error

    def read_flags(self) -> dict[str, str]:
        """What flags.txt sets each flag to; of one that is repeated, ", " between."""
        return _by_name(self.read_flag_lines())

    def read_flag_lines(self) -> list[str]:
        """The lines of flags.txt that set a flag."""
        lines = self._read_flags_text().splitlines()
        return [line for line in lines if line.startswith("--")]

    def _read_flags_text(self):
        return self.flags.read_text(encoding="utf-8", errors="replace")

    def keep_metrics_until(self, step: int) -> None:
        """Drops the rows of evaluations after the step at which a run resumes."""
        rows = self.read_metrics()
        kept = [row for row in rows if int(row["step"]) <= step]
        if len(kept) < len(rows):
            self._write_metrics(kept)

    def add_metrics(self, row: Mapping[str, object]) -> None:
        """Adds a row to metrics.csv, with the columns `METRICS`."""
        self._write_metrics([*self.read_metrics(), row])

    def read_metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv so far."""
        if not self.metrics.is_file():
            return []
        with self.metrics.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write_metrics(self, rows):
        lines = [",".join(METRICS)]
        lines += [
            ",".join(_readable(row.get(name, "")) for name in METRICS) for row in rows
        ]
        write_text(self.metrics, "\n".join([*lines, ""]))

    def write_result(self, result: Mapping[str, object]) -> None:
        """Writes result.json, which marks the run as finished."""
        write_text(self.result, json.dumps(result, indent=2) + "\n")

    def write_failure(self, reason: str) -> None:
        """Writes failed.txt, which marks the run as failed."""
        write_text(self.failure, f"{reason}\n")

    def write_source(self, source: Mapping[str, object]) -> None:
        """Writes imported.json: the model in the folder was trained elsewhere."""
        write_text(self.source, json.dumps(source, indent=2) + "\n")

    def read_result(self) -> dict:
        """The content of result.json.

        Raises:
          FileNotFoundError: if the run is not finished.
          DamagedError: if it is not what `write_result` writes.
        """
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
            if not isinstance(result, dict):
                raise ValueError("it holds no result")
        except (IsADirectoryError, ValueError) as error:
            raise DamagedError(f"{self.result} is damaged ({error}).") from error
        return result


def _readable(value):
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _by_name(lines):
    """What the lines of a flagfile set each flag to."""
    values: dict[str, str] = {}
    for line in lines:
        if line.startswith("--"):
            name, _, value = line.removeprefix("--").partition("=")
            values[name] = f"{values[name]}, {value}" if name in values else value
    return values


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file under another name, then renames it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

"""The folder of a run: what it holds, whether a run may go on in it.

    flags.txt        a flagfile that repeats the run
    checkpoints/     the state of training
    weights/         of step 0, and of those that the run was told to keep
    tensorboard/     scalars
    metrics.csv      a row per evaluation
    result.json      what came out; written last, so that it marks a finished run
    layers.csv       the sparsity report
    masks.npz        which weights stay
    sparsity.png     sparsity by layer
    thresholds.csv   written by evaluation: sparsity and quality by threshold
    export/          the stripped SavedModel
    vocabulary.model of translation: the SentencePiece model
    failed.txt       why a run failed; gone as soon as it goes on
    imported.json    of a model that was trained elsewhere: where it is from
    rounds/          of iterative pruning: a folder such as this one for each round but
                     the last, which is the run's own; without a metrics.csv

Files are written under another name and renamed, so that each is there as a whole or
not at all.
"""

import csv
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Self

# Flags that runs of 0.1.0 did not have, and what these runs did.
OF_EARLIER_RUNS = {
    "shared_positions": "False",
    "extra_length": "100",
    "network": "resnet",
    "optimizer": "sgd",
}
METRICS = ("step", "epoch", "loss", "quality", "sparsity", "seconds_per_step")


class RunFolderError(Exception):
    """The folder cannot be used for this run; the message says why and what to do."""


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
        return self.result.is_file()

    def check_same_run(self) -> None:
        """Raises unless the folder is free, or holds a run of the same settings.

        Raises:
          RunFolderError: listing the flags that differ; or if what it holds was not
            trained here.
        """
        if not self.path.exists():
            self._check_can_be_made()
            return
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: choose another --output_dir.")
        if not self.flags.is_file():
            if any(self.path.iterdir()):
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
        there, now = self.read_flags(), _by_name(self._lines)
        there = {n: v for n, v in OF_EARLIER_RUNS.items() if n in now} | there
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

    def _check_can_be_made(self):
        # Before minutes are spent on building a model.
        above = next(p for p in self.path.absolute().parents if p.exists())
        if not above.is_dir():
            raise RunFolderError(self._not_writable(f"{above} is a file"))
        if not os.access(above, os.W_OK | os.X_OK):
            raise RunFolderError(self._not_writable(f"no permission in {above}"))

    def _not_writable(self, reason):
        return f"--output_dir={self.path} cannot be written ({reason}): choose another."

    def start(self) -> None:
        """Makes the folder and writes flags.txt, unless they are there.

        Raises:
          RunFolderError: if the folder cannot be written.
        """
        if self._whole is not None:
            self._whole.start()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.flags.exists():
                text = "\n".join([f"# {self._header}", *self._lines, ""])
                write_text(self.flags, text)
            elif not os.access(self.path, os.W_OK):
                raise PermissionError("permission denied")
            self.failure.unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(self._not_writable(error)) from error

    def read_flags(self) -> dict[str, str]:
        """What flags.txt sets each flag to; of one that is repeated, ", " between."""
        return _by_name(self.flags.read_text(encoding="utf-8").splitlines())

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
        lines += [",".join(_readable(row[name]) for name in METRICS) for row in rows]
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
        return json.loads(self.result.read_text(encoding="utf-8"))


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

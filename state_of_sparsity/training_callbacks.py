"""The Keras callbacks with which a sparse model is trained."""

import importlib
import os

from state_of_sparsity.engines import engine_of
from state_of_sparsity.report import report_now


def callbacks(model, log_dir: str | os.PathLike | None = None) -> list:
    """The callbacks with which a sparse model is trained.

    A `tf_keras` model does not train without them. A Keras 3 model does: they add to
    its logs.

    Args:
      model: a model of `sos.sparsify`.
      log_dir: if given, a TensorBoard folder into which the sparsity is written after
        each epoch: overall, and of each weight tensor; and the penalty. Needs
        TensorFlow, which writes it.

    Returns:
      A list for `fit(..., callbacks=...)`, to be followed by those that read the logs:
      `callbacks=[*sos.callbacks(sparse), keras.callbacks.TensorBoard(...)]`. Custom
      training loops call `on_train_begin` and `on_epoch_end` themselves, after
      `set_model(model)`.

    Raises:
      ImportError: for a `log_dir` where TensorFlow is not installed.
      ValueError: if the model has no sparse layer, or `log_dir` is a file.
    """
    engine = engine_of(model)
    if not any(site.is_sparse for site in engine.sites(model)):
        raise ValueError(
            f"Model {model.name!r} has no sparse layers, so it needs no callbacks: "
            "pass the model that sos.sparsify returned."
        )
    needed = [*engine.needed_callbacks(), _of(engine, PenaltyLogs)()]
    if log_dir is not None:
        needed.append(_of(engine, SparsitySummaries)(log_dir))
    return needed


def _of(engine, cls):
    """The class as a callback of the engine's Keras."""
    return type(cls.__name__, (cls, engine.callback_class), {})


class PenaltyLogs:
    """Adds what learned techniques do to the logs of an epoch: see `penalty_logs`.

    The progress bar shows them, and so do callbacks that come after this one, such as
    TensorBoard. Without such layers, it adds nothing.
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(penalty_logs(self.model))


def penalty_logs(model) -> dict[str, float]:
    """What learned techniques do to a model; of a model without any, nothing.

    `penalty` is the sum over the layers without its weight, `penalty_weight` that
    weight (the highest, if layers differ), `sparsity` that of the deployed model.
    """
    engine = engine_of(model)
    sparse = [site.layer for site in engine.sites(model) if site.is_sparse]
    penalties = [p for p in map(engine.penalty, sparse) if p is not None]
    if not penalties:
        return {}
    return {
        "penalty": sum(penalty for penalty, _ in penalties),
        "penalty_weight": max(weight for _, weight in penalties),
        "sparsity": report_now(model).sparsity,
    }


class SparsitySummaries:
    """Writes `sparsity` and `sparsity/<weight name>` for TensorBoard every epoch.

    Of learned techniques `penalty` and `penalty_weight`, too.

    Args:
      log_dir: the TensorBoard folder.
    """

    def __init__(self, log_dir: str | os.PathLike):
        super().__init__()
        self._log_dir = os.fspath(log_dir)
        if os.path.exists(log_dir) and not os.path.isdir(log_dir):
            raise ValueError(f"log_dir must be a folder. Received: {self._log_dir!r}")
        self._writer = None
        try:
            self._summary = importlib.import_module("tensorflow").summary
        except ImportError as error:
            raise ImportError(
                "log_dir needs TensorFlow, which writes the files of TensorBoard: "
                f"pip install tensorflow. Received: log_dir={self._log_dir!r}"
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            self._writer = self._summary.create_file_writer(self._log_dir)
        report = report_now(self.model)
        step = int(self.model.optimizer.iterations.numpy())
        scalars = {**penalty_logs(self.model), "sparsity": report.sparsity}
        for layer in report.layers:
            scalars[f"sparsity/{layer.name}"] = layer.sparsity
        with self._writer.as_default():
            for name, value in scalars.items():
                self._summary.scalar(name, value, step)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

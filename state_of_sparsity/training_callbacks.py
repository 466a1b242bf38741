"""The Keras callbacks that a sparse model needs in `fit`."""

import os

from state_of_sparsity.backend import (
    PruneLowMagnitude,
    UpdatePruningStep,
    keras,
    tf,
)
from state_of_sparsity.checks import check_model
from state_of_sparsity.report import sparsity_report
from state_of_sparsity.techniques.reparameterization import ReparameterizationTechnique
from state_of_sparsity.weights import sites


def callbacks(
    model: keras.Model, log_dir: str | os.PathLike | None = None
) -> list[keras.callbacks.Callback]:
    """The callbacks with which a sparse model is trained.

    Args:
      model: a model of `sos.sparsify`.
      log_dir: if given, a TensorBoard folder into which the sparsity is written after
        each epoch: overall, and of each weight tensor; and the penalty.

    Returns:
      A list for `fit(..., callbacks=...)`, to be followed by those that read the logs:
      `callbacks=[*sos.callbacks(sparse), keras.callbacks.TensorBoard(...)]`. Custom
      training loops call `on_train_begin` and `on_epoch_end` themselves, after
      `set_model(model)`.

    Raises:
      ValueError: if the model has no sparse layer.
    """
    check_model(model)
    if not any(site.is_sparse for site in sites(model)):
        raise ValueError(
            f"Model {model.name!r} has no sparse layers, so it needs no callbacks: "
            "pass the model that sos.sparsify returned."
        )
    needed = [PruningStep(), PenaltyLogs()]
    if log_dir is not None:
        needed.append(SparsitySummaries(log_dir))
    return needed


class PruningStep(UpdatePruningStep):
    """Starts the count of steps, and zeroes masked weights after each epoch.

    TF-MOT's callback, which finds the wrappers of subclassed models and of custom
    layers, too.
    """

    def on_train_begin(self, logs=None):
        self.prunable_layers = [
            site.layer
            for site in sites(self.model)
            if isinstance(site.layer, PruneLowMagnitude)
        ]
        for layer in self.prunable_layers:
            # It is -1 until training begins; a restored model counts on.
            if layer.pruning_step.numpy() < 0:
                layer.pruning_step.assign(0)


class PenaltyLogs(keras.callbacks.Callback):
    """Adds what learned techniques do to the logs of an epoch: see `penalty_logs`.

    The progress bar shows them, and so do callbacks that come after this one, such as
    TensorBoard. Without such layers, it adds nothing.
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(penalty_logs(self.model))


def penalty_logs(model: keras.Model) -> dict[str, float]:
    """What learned techniques do to a model; of a model without any, nothing.

    `penalty` is the sum over the layers without its weight, `penalty_weight` that
    weight (the highest, if layers differ), `sparsity` that of the deployed model.
    """
    penalized = [
        site.layer
        for site in sites(model)
        if isinstance(
            getattr(site.layer, "technique", None), ReparameterizationTechnique
        )
    ]
    if not penalized:
        return {}
    return {
        "penalty": sum(float(layer.penalty()) for layer in penalized),
        "penalty_weight": max(float(p.penalty_weight()) for p in penalized),
        "sparsity": sparsity_report(model).sparsity,
    }


class SparsitySummaries(keras.callbacks.Callback):
    """Writes `sparsity` and `sparsity/<weight name>` for TensorBoard every epoch.

    Of learned techniques `penalty` and `penalty_weight`, too.

    Args:
      log_dir: the TensorBoard folder.
    """

    def __init__(self, log_dir: str | os.PathLike):
        super().__init__()
        self._log_dir = os.fspath(log_dir)
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._log_dir)
        report = sparsity_report(self.model)
        step = self.model.optimizer.iterations
        scalars = {**penalty_logs(self.model), "sparsity": report.sparsity}
        for layer in report.layers:
            scalars[f"sparsity/{layer.name}"] = layer.sparsity
        with self._writer.as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

"""Variational dropout at another threshold than that it was trained with."""

import contextlib
import dataclasses
from collections.abc import Iterator

from state_of_sparsity.checks import check_number
from state_of_sparsity.engines import engine_of
from state_of_sparsity.techniques.variational_dropout import VariationalDropout


@contextlib.contextmanager
def deployed_at(model, log_alpha_threshold: float | None) -> Iterator[None]:
    """For as long as the context lasts, the model is deployed at another threshold.

    Args:
      model: a model with layers of variational dropout.
      log_alpha_threshold: from which log alpha on a weight is zero; None for that
        which each layer has.

    Raises:
      TypeError, ValueError: if the threshold is not a finite number, or the model has
        no layer with variational dropout.
    """
    if log_alpha_threshold is None:
        yield
        return
    check_number("log_alpha_threshold", log_alpha_threshold)
    layers = [
        site.layer
        for site in engine_of(model).sites(model)
        if isinstance(getattr(site.layer, "technique", None), VariationalDropout)
    ]
    if not layers:
        raise ValueError(
            "log_alpha_threshold is for variational dropout, and no layer of model "
            f"{model.name!r} has it. Received: {log_alpha_threshold}"
        )
    techniques = [layer.technique for layer in layers]
    try:
        for layer in layers:
            layer.technique = dataclasses.replace(
                layer.technique, log_alpha_threshold=log_alpha_threshold
            )
        yield
    finally:
        for layer, technique in zip(layers, techniques, strict=True):
            layer.technique = technique

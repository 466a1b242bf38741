"""Layers that are renewed together: by one threshold, or for channels that are tied.

A layer is loaded and copied by itself and holds no other. Those that are renewed with
it are found in the step: they are held by the same outermost call.
"""

import weakref

from state_of_sparsity.engines.keras3 import private

_LAYERS: weakref.WeakSet = weakref.WeakSet()
# By the token of a step, techniques whose layers have been renewed in it.
_RENEWED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def note(layer) -> None:
    """Remembers a sparse layer, for as long as it is there, if it has companions."""
    if getattr(layer.technique, "companions", None) is not None:
        _LAYERS.add(layer)


def renewed_with(layer) -> list:
    """The layers whose masks are renewed with those of one, it among them.

    Returns:
      In the order of the model. Empty if they have been renewed in this step, or if
      nothing is computed but shapes.

    Raises:
      ValueError: if a part of the model is called, or it is in a model twice.
    """
    companions = getattr(layer.technique, "companions", None)
    if companions is None:
        return [layer]
    token = private.step_token()
    renewed = set() if token is None else _RENEWED.setdefault(token, set())
    if layer.technique in renewed or private.has_no_state(_theta(layer)):
        return []
    renewed.add(layer.technique)
    alike = [x for x in _LAYERS if x.technique == layer.technique and x.sparse_weights]
    found = private.those_in_call(alike, _theta)
    companions.check([x.name for x in found], [x.index for x in found])
    return sorted(found, key=lambda x: x.index)


def _theta(layer):
    return layer.sparse_weights[0].theta

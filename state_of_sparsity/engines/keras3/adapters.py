"""LoRA of Keras under masks: `mask * (W + alpha / rank * A·B)`.

Hu et al. 2021 (arXiv 2106.09685). As Keras does it, the weight no longer trains, and
`A` and `B` do, and the bias. What is merged keeps every zero.
"""

import keras
from keras import ops

from state_of_sparsity.engines.keras3 import private


def with_adapters(layer: keras.layers.Layer, label: str, theta):
    """A weight of a layer with what LoRA adds to it, if it has any, before the mask."""
    names = _names(layer, label)
    if not names:
        return theta
    a, b = (private.in_full_precision(getattr(layer, name)) for name in names)
    return theta + layer.lora_alpha / layer.lora_rank * ops.matmul(a, b)


def variables_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The adapters of a sparse layer."""
    labels = [weight.label for weight in layer.sparse_weights]
    return [getattr(layer, name) for x in labels for name in _names(layer, x)]


def _names(layer, label):
    if not getattr(layer, "lora_enabled", False):
        return []
    names = [f"lora_{label}_a", f"lora_{label}_b"]
    return names if hasattr(layer, names[0]) else []


def saved(layer: keras.layers.Layer) -> dict:
    """What a container notes of the adapters of a layer that it makes itself."""
    if not getattr(layer, "lora_enabled", False):
        return {}
    return {"lora": [layer.lora_rank, layer.lora_alpha]}


def restore(layer: keras.layers.Layer, noted: dict) -> None:
    """Gives a sparse layer the adapters that `saved` has noted of it."""
    if "lora" not in noted:
        return
    rank, layer.lora_alpha = noted["lora"]
    if layer.built:
        layer.enable_lora(rank)
    else:
        # Keras does it once the layer is built.
        layer.lora_rank = rank


def merged(layer: keras.layers.Layer, weight: keras.Variable) -> None:
    """Has a plain layer whose weight has taken up its adapters train without them."""
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    weight.trainable = layer.trainable

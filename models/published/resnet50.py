"""Names of the published ResNet-50: which variable has which of our weights.

The checkpoints that Gale, Elsen & Hooker 2019 (arXiv 1902.09574) released number the
blocks of a stage from 1, without a number for the first one, and batch normalizations
in the order of their creation, that of a shortcut first. Kernels are laid out as in
Keras: height, width, inputs, outputs.
"""

from collections.abc import Iterator

import numpy as np

from state_of_sparsity.models.images.resnet import DEPTHS
from state_of_sparsity.models.published.tf1_checkpoint import TF1Checkpoint, some_of
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError

# The threshold of log alpha of the published runs with variational dropout.
LOG_ALPHA_THRESHOLD = 0.5
_FIRST, _LAST = "initial_conv", "final_dense"
# Last parts of the names in a checkpoint, by the attribute of a layer.
_PARTS = {
    "kernel": ("weights", "kernel"),
    "bias": ("biases", "bias"),
    **{name: (name,) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
}


def default_threshold(checkpoint: TF1Checkpoint) -> float | None:
    """The threshold of log alpha that the published ResNet-50 was deployed with.

    Returns:
      None for a checkpoint of another network, or without variational dropout.
    """
    scopes = {scope for name in checkpoint.shapes for scope in name.split("/")[:-1]}
    learned = any(name.endswith("/log_sigma2") for name in checkpoint.shapes)
    return LOG_ALPHA_THRESHOLD if learned and {_FIRST, _LAST} <= scopes else None


def published_scopes() -> dict[str, tuple[str, ...]]:
    """What the scope of a layer may be called there, by the name of ours."""
    scopes: dict[str, tuple[str, ...]] = {}
    for index, (name, published) in enumerate(_convolutions()):
        scopes[name] = published
        number = f"_{index}" if index else ""
        scopes[f"{name}_bn"] = (f"batch_normalization{number}",)
    scopes["logits"] = (_LAST,)
    return scopes


def _convolutions() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our convolutions in the order in which the published network makes them."""
    yield "conv1", (_FIRST,)
    for stage, blocks in enumerate(DEPTHS[50].blocks, start=1):
        group = f"block_group{stage}"
        # The code that was published along says more of a first block.
        first = (group, f"block_group_projection_{group}")
        for block in range(blocks):
            ours = f"stage{stage}_block{block + 1}"
            ends = (f"{group}_{block}_1",) if block else first
            if not block:
                yield f"{ours}_shortcut", _each("bottleneck_projection", ends)
            for index in (1, 2, 3):
                yield f"{ours}_conv{index}", _each(f"bottleneck_{index}", ends)


def _each(beginning, ends):
    return tuple(f"{beginning}_{end}" for end in ends)


def load_resnet50(
    model, checkpoint: TF1Checkpoint, log_alpha_threshold: float | None = None
) -> dict[str, np.ndarray]:
    """Gives a dense ResNet-50 the weights of a published one, as it was deployed.

    Args:
      model: of `resnet(depth=50)`, whose weights are set if all of them are there.
      checkpoint: of any technique.
      log_alpha_threshold: as of `TF1Checkpoint.weights`.

    Returns:
      The masks, by weight name as of `sos.weight_masks`: of what was left dense, all
      is kept.

    Raises:
      CheckpointError: if the checkpoint is of another network; it lists what found no
        counterpart, on both sides, or the shapes that differ.
    """
    weights = {
        f"{layer.name}/{weight.name.rpartition('/')[2].partition(':')[0]}": weight
        for layer in model.layers
        for weight in layer.weights
    }
    names = _counterparts(weights, checkpoint)
    stored = {x.name: x for x in checkpoint.weights(log_alpha_threshold)}
    masks, values = {}, {}
    for ours, theirs in names.items():
        if theirs in stored:
            masks[ours], values[ours] = stored[theirs].kept, stored[theirs].deployed
        else:
            values[ours] = checkpoint.read(theirs)
        there, here = values[ours].shape, tuple(weights[ours].shape)
        if there != here:
            raise CheckpointError(
                f"{checkpoint.prefix} is of a ResNet-50 of another width, or for "
                f"another number of classes: {theirs} has the shape {there}, and "
                f"{ours} here {here}. Give its --width and --dataset."
            )
    for ours, value in values.items():
        weights[ours].assign(value)
    return masks


def _counterparts(weights, checkpoint):
    """By the name of a weight here, that of its variable there."""
    counted = checkpoint.names("weight", "parameter", "average")
    there: dict[str, list[str]] = {}
    for name in counted:
        there.setdefault("/".join(name.split("/")[-2:]), []).append(name)
    scopes = published_scopes()
    found, missing = {}, []
    for ours in weights:
        layer, attribute = ours.split("/")
        possible = [f"{s}/{part}" for s in scopes[layer] for part in _PARTS[attribute]]
        names = [name for end in possible for name in there.get(end, ())]
        if len(names) == 1:
            found[ours] = names[0]
        else:
            # Of several, none is more likely.
            which = " and ".join(names) or f"no …/{possible[0]}"
            missing.append(f"{ours} ({which})")
    left = sorted(set(counted) - set(found.values()))
    if missing or left:
        raise CheckpointError(
            f"{checkpoint.prefix} is of another network than ResNet-50. Weights here "
            f"without one counterpart there: {some_of(missing) or 'none'}. There "
            f"without one here: {some_of(left) or 'none'}."
        )
    return found

"""How far the schedules of a model have come."""

import math
import warnings


def warn_if_unfinished(engine, model) -> None:
    """Warns of layers that have taken part in fewer steps than their schedules take."""
    layers = [
        (site.path, step, site.layer.technique.settled_step)
        for site in engine.sites(model)
        if hasattr(site.layer, "technique")
        for step in [engine.training_step(site.layer)]
        if step < site.layer.technique.settled_step
    ]
    if not layers:
        _warn_if_off_target(engine, model)
        return
    path, step, end = layers[0]
    warnings.warn(
        f"The schedules of {len(layers)} layers of {model.name!r} have not ended: "
        f"{path!r} has counted {step} training steps of {end}. If it was trained for "
        "more, its model was not called with training=True; else train on.",
        stacklevel=3,
    )


def _warn_if_off_target(engine, model):
    """Warns of weights that are not as sparse as they were steered to be."""
    off = [
        (f"{site.path}/{weight.attribute}", sparsity, target)
        for site in engine.sites(model)
        if getattr(getattr(site.layer, "technique", None), "is_steered", False)
        for target in [site.layer.technique.sparsity]
        for weight in engine.deployed_weights(site.layer)
        for sparsity in [1.0 - weight.mask.mean()]
        # A weight of few elements, or groups, cannot be closer than one of them.
        for count in [getattr(site.layer.technique, "units_of", math.prod)]
        if weight.is_sparse
        and abs(sparsity - target) > max(0.01, 1 / count(weight.mask.shape))
    ]
    if off:
        name, sparsity, target = off[0]
        warnings.warn(
            f"{len(off)} weights of {model.name!r} are more than a point off the "
            f"sparsity that they were to have: {name!r} has {sparsity:.2%} of "
            f"{target:.2%}. They need more steps, a longer ramp_length, or a learning "
            "rate that is higher before and lower in the end.",
            stacklevel=4,
        )

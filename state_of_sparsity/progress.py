"""How far the schedules of a model have come."""

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
        return
    path, step, end = layers[0]
    warnings.warn(
        f"The schedules of {len(layers)} layers of {model.name!r} have not ended: "
        f"{path!r} has counted {step} training steps of {end}. If it was trained for "
        "more, its model was not called with training=True; else train on.",
        stacklevel=3,
    )

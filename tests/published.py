"""Checkpoints as TensorFlow 1 wrote them, under the names of the published runs."""

import numpy as np

from state_of_sparsity.engines.tf_keras.backend import tf

# Of a ResNet-50: stage, block, whether it has a projection.
BLOCKS = [
    (stage, block)
    for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3))
    for block in range(1, count + 1)
]


def write(prefix, variables):
    """Writes variables, by name, as `tf.compat.v1.train.Saver` does."""
    values = [np.asarray(value) for value in variables.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(values),
        tensors=values,
    )
    return prefix


def convolutions():
    """Names of the convolutions of a ResNet-50, ours and the published ones."""
    pairs = [("conv1", "initial_conv")]
    for stage, block in BLOCKS:
        ours = f"stage{stage}_block{block}"
        theirs = f"block_group{stage}"
        if block == 1:
            pairs.append((f"{ours}_shortcut", f"bottleneck_projection_{theirs}"))
        else:
            theirs += f"_{block - 1}_1"
        pairs += [(f"{ours}_conv{i}", f"bottleneck_{i}_{theirs}") for i in (1, 2, 3)]
    return pairs


def scatter(model, rng):
    """Gives each weight of a model a value of its own."""
    for weight in model.weights:
        low, high = (0.5, 1.5) if "variance" in weight.name else (-0.5, 0.5)
        weight.assign(rng.uniform(low, high, weight.shape).astype("float32"))


def resnet50(model, technique, rng, dense=(), step=7):
    """The variables of a published ResNet-50, and what it deploys.

    Args:
      model: a dense ResNet-50, whose kernels are then those that are deployed.
      technique: "pruning", "variational_dropout", "l0_regularization" or "dense".
      rng: draws what goes.
      dense: published names of layers that are left dense.
      step: of the training.

    Returns:
      The variables by name, and by the name of our kernel which weights stay.
    """
    variables, masks = {"global_step": np.int64(step)}, {}
    pairs = convolutions()
    for index, (ours, _) in enumerate(pairs):
        norm = f"resnet_model/batch_normalization{f'_{index}' if index else ''}"
        for weight in model.get_layer(f"{ours}_bn").weights:
            part = weight.name.split("/")[-1].removesuffix(":0")
            variables[f"{norm}/{part}"] = weight.numpy()
            if part in ("gamma", "beta"):
                variables[f"{norm}/{part}/Momentum"] = np.ones(weight.shape, "float32")
    for ours, theirs in [*pairs, ("logits", "final_dense")]:
        layer, how = model.get_layer(ours), technique
        scope = f"resnet_model/{theirs}"
        if technique == "dense" or theirs in dense:
            # tf.layers made it, in a scope of the same name.
            scope, how = f"{scope}/{theirs}", "dense"
        theta = layer.kernel.numpy()
        added, deployed, masks[f"{ours}/kernel"] = learned(how, theta, rng)
        layer.kernel.assign(deployed)
        variables[f"{scope}/weights"] = theta
        variables[f"{scope}/weights/Momentum"] = np.ones_like(theta)
        variables |= {f"{scope}/{end}": value for end, value in added.items()}
        if ours == "logits":
            variables[f"{scope}/biases"] = layer.bias.numpy()
    return variables, masks


def learned(technique, theta, rng, threshold=0.5):
    """What a technique stores beside a weight, what it deploys, and what it keeps.

    Computed in float64; nothing is close to the border.
    """
    if technique == "dense":
        return {}, theta, np.ones(theta.shape, bool)
    kept = rng.uniform(size=theta.shape) < 0.3
    if technique == "pruning":
        mask = kept.astype("float32")
        return {"mask": mask, "threshold": np.float32(0.1)}, theta * mask, kept
    distance = rng.uniform(0.1, 3.0, theta.shape)
    if technique == "variational_dropout":
        # log alpha = log sigma^2 - log(theta^2 + 1e-8) is below the threshold.
        log_alpha = threshold + np.where(kept, -distance, distance)
        log_sigma2 = log_alpha + np.log(theta.astype(float) ** 2 + 1e-8)
        stored = {"log_sigma2": log_sigma2.astype("float32")}
        return stored, (theta * kept).astype("float32"), kept
    # The gate 1.2 sigmoid(log alpha) - 0.1 is 0 up to log(1 / 11).
    log_alpha = np.log(1 / 11) + np.where(kept, distance, -distance)
    gate = np.clip(1.2 / (1 + np.exp(-log_alpha)) - 0.1, 0, 1)
    stored = {"log_alpha": log_alpha.astype("float32")}
    return stored, (theta * gate).astype("float32"), kept

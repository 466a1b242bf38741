"""A small GPT-2 of KerasHub on the bytes of Python's own modules, pruned in one shot.

  KERAS_BACKEND=jax python benchmarks/language_model.py --seeds=0,1,2

Trains it, and prints the median of its perplexity, by byte, on modules that it has not
seen: dense, and by technique, with and without weights that are solved for anew
(`refit`), with layers calibrated one after the other or at once. The table and the
norms stay dense. Then what some more steps with the masks held recover, of all weights
and of LoRA.
"""

import pathlib
import statistics
import sysconfig

import figures
import keras
import keras_hub
import numpy as np
from absl import app, flags

import state_of_sparsity as sos

_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "A model for each of them.")
_LAYERS = flags.DEFINE_integer("layers", 3, "Of the model.")
_WIDTH = flags.DEFINE_integer("width", 96, "Of the model.")
_STEPS = flags.DEFINE_integer("steps", 1000, "Of training.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.5", "0.6", "0.7", "2:4"], "Of all.")
_EXAMPLES = flags.DEFINE_integer("examples", 128, "To calibrate with.")
_RECOVERY = flags.DEFINE_integer("recovery", 200, "Steps with the masks held; 0: none.")

LENGTH, BATCH = 64, 32
DENSE = {".*embedding.*": None}


def text():
    """Bytes to train on, to calibrate with, and to score, of different modules."""
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    modules = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    parts = [b"".join(modules[place::10]) for place in range(10)]
    return b"".join(parts[:8]), parts[8], parts[9]


def windows(data, number, seed):
    """Random windows of one more byte than a model sees."""
    values = np.frombuffer(data, np.uint8).astype("int32")
    starts = np.random.default_rng(seed).integers(0, len(values) - LENGTH, number)
    return np.stack([values[start : start + LENGTH + 1] for start in starts])


def inputs(examples):
    return {
        "token_ids": examples[:, :-1],
        "padding_mask": np.ones_like(examples[:, :-1]),
    }


def language_model():
    width = _WIDTH.value
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=256,
        num_layers=_LAYERS.value,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=LENGTH,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone)


def compiled(model, rate=2e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, weighted_metrics=[])
    return model


def trained(seed, data, steps):
    keras.utils.set_random_seed(seed)
    model = compiled(language_model())
    examples = windows(data, steps * BATCH, seed)
    model.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10
    )
    model.fit(inputs(examples), examples[:, 1:], BATCH, shuffle=False, verbose=0)
    return model


def perplexity(model, examples):
    return float(
        np.exp(
            compiled(model).evaluate(inputs(examples), examples[:, 1:], 64, verbose=0)
        )
    )


def techniques(sparsity):
    """By name: the technique, and the options of one_shot."""
    pattern = {}
    if ":" in sparsity:
        zeros, group = map(int, sparsity.split(":"))
        pattern = {"sparsity_m_by_n": (zeros, group)}
        sparsity = zeros / group
    share = float(sparsity)
    magnitude = sos.MagnitudePruning(share, 0, 0, 1, **pattern)
    wanda, surgeon = sos.Wanda(share, **pattern), sos.SparseGPT(share, **pattern)
    once = {"refit": False, "sequential": False}
    yield "magnitude", magnitude, {"refit": False}
    yield "magnitude, refit", magnitude, {}
    yield "Wanda", wanda, {"refit": False}
    yield "Wanda, at once", wanda, once
    yield "Wanda, refit", wanda, {}
    yield "SparseGPT", surgeon, {"refit": False}
    yield "SparseGPT, at once", surgeon, once
    yield "SparseGPT, refit", surgeon, {}


def recovered(sparse, data, seed, adapters):
    """After some more steps, of all weights or of LoRA's alone."""
    if adapters:
        sparse.backbone.enable_lora(8)
    examples = windows(data, _RECOVERY.value * BATCH, seed + 1000)
    rate = 3e-3 if adapters else 1e-3
    compiled(sparse, keras.optimizers.schedules.CosineDecay(rate, _RECOVERY.value))
    sparse.fit(inputs(examples), examples[:, 1:], BATCH, shuffle=False, verbose=0)
    return sos.strip(sparse)


def perplexities(seed):
    """By name, of a model of that seed."""
    seen, calibration, unseen = text()
    scored = windows(unseen, 256, 0)
    model = trained(seed, seen, _STEPS.value)
    given = inputs(windows(calibration, _EXAMPLES.value, seed))
    yield "dense", perplexity(model, scored)
    for sparsity in _SPARSITIES.value:
        for name, technique, options in techniques(sparsity):
            sparse = sos.one_shot(model, technique, given, overrides=DENSE, **options)
            yield f"{sparsity} {name}", perplexity(sparse, scored)
        for name in ("LoRA", "all weights") if _RECOVERY.value else ():
            # The last technique's.
            sparse = sos.one_shot(model, technique, given, overrides=DENSE, **options)
            trained_on = recovered(sparse, seen, seed, name == "LoRA")
            yield f"{sparsity} recovered, {name}", perplexity(trained_on, scored)


def main(argv):
    del argv
    found: dict[str, list[float]] = {}
    for seed in map(int, _SEEDS.value):
        for key, value in perplexities(seed):
            found.setdefault(key, []).append(value)
            print(f"seed {seed} {key} {value:.3f}", flush=True)
    medians = {key: statistics.median(values) for key, values in found.items()}
    figures.publish([figures.Figure(k, "perplexity", m) for k, m in medians.items()])


if __name__ == "__main__":
    app.run(main)

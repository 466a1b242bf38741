"""Writes the published settings as flagfiles for the training binaries.

  python bin/recipes/generate.py

`published_results.csv` holds the best published score of each technique and sparsity,
with its hyperparameters: Gale, Elsen & Hooker 2019, "The State of Sparsity in Deep
Neural Networks" (arXiv 1902.09574). A recipe is written for each row whose technique
the binaries have. What a recipe leaves out is what the binary does on its dataset
unless a flag says otherwise: the paper's common settings.

L0 regularization has no row for ResNet-50, as none of the published attempts gave a
sparse model that kept its accuracy. There are recipes for what was tried: each initial
log alpha, with the smallest and the largest weight.
"""

import csv
import itertools
import pathlib

FOLDER = pathlib.Path(__file__).parent
SOURCE = "Gale, Elsen & Hooker 2019, arXiv 1902.09574"

# Flags for what the table calls by another name.
LEARNED = ("variational_dropout", "l0_regularization")
FLAGS = {"begin": "begin_step", "end": "end_step", "layer_target": "sparsity"}

STANDARD = {"train_steps": "128000", "batch_size": "1024"}
# 1.5 times the epochs of the standard runs. The paper says nothing of the learning
# rate in them; our reading is that the epochs at which it decays, 30, 60 and 80,
# are stretched by the same factor, while the five epochs of warm-up stay.
EXTENDED = {"train_steps": "48000", "batch_size": "4096", "decay_epochs": "45,90,120"}
# They leave the first layer dense, and the last one at most 80 % sparse.
NON_UNIFORM = ("conv1=dense", "logits=0.8")

# The paper starts ResNet-50 from a log variance of -15. It does not name the form of
# the ramp there; the flag's default is linear.
VARIATIONAL = {**STANDARD, "initial_log_sigma2": "-15"}

TRANSFORMER = {"train_steps": "500000"}

# Names in the table: the technique, its settings, the overrides.
TECHNIQUES = {
    "resnet50": {
        "dense": ("dense", STANDARD, ()),
        "magnitude_pruning": ("magnitude_pruning", STANDARD, ()),
        "magnitude_pruning_extended": ("magnitude_pruning", EXTENDED, NON_UNIFORM),
        "random_pruning": ("random_pruning", STANDARD, ()),
        "variational_dropout": ("variational_dropout", VARIATIONAL, ()),
    },
    "transformer": {
        name: (name, TRANSFORMER, ())
        for name in (
            "dense",
            "magnitude_pruning",
            "random_pruning",
            "variational_dropout",
            "l0_regularization",
        )
    },
}
# What was tried of L0 regularization on ResNet-50. The paper does not name the ramp
# there; by the flags' defaults, the penalty has its whole weight from the start.
L0_INITIAL_LOG_ALPHAS = ("4.6", "2.95", "2.197", "0.847")
L0_WEIGHTS = ("0.00012", "0.0034")

DATASETS = {"resnet50": "imagenet2012", "transformer": "wmt14_translate/de-en"}
UNITS = {"resnet50": "% top-1", "transformer": "BLEU"}


def recipes() -> dict[str, str]:
    """The text of each flagfile, by its name."""
    with (FOLDER / "published_results.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["technique"] in TECHNIQUES[row["model"]]
        ]
    published: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        setting = row["model"], row["technique"], row["sparsity"]
        published.setdefault(setting, []).append(row)
    return {
        _file_name(*setting): _text(*setting, group)
        for setting, group in published.items()
    } | _l0_attempts()


def _l0_attempts():
    """What was tried of L0 regularization on ResNet-50."""
    texts = {}
    for log_alpha, weight in itertools.product(L0_INITIAL_LOG_ALPHAS, L0_WEIGHTS):
        technique = "l0_regularization"
        settings = {"initial_log_alpha": log_alpha, "l0_weight": weight}
        flags = {"dataset": DATASETS["resnet50"], **STANDARD, "technique": technique}
        comment = f"Published: no sparse model that kept its accuracy ({SOURCE})"
        name = f"resnet50_{technique}_log_alpha_{log_alpha}_weight_{weight}.flags"
        texts[name] = _flagfile(comment, flags | settings, ())
    return texts


def _flagfile(comment, flags, overrides):
    lines = [f"# {comment}", *(f"--{flag}={value}" for flag, value in flags.items())]
    lines += [f"--override={override}" for override in overrides]
    return "\n".join([*lines, ""])


def _file_name(model, name, sparsity):
    suffix = "" if name == "dense" else f"_{sparsity}"
    return f"{model}_{name}{suffix}.flags"


def _text(model, name, sparsity, rows):
    technique, settings, overrides = TECHNIQUES[model][name]
    flags = {"dataset": DATASETS[model], **settings, "technique": technique}
    if technique != "dense":
        published = dict(p.split("=") for p in rows[0]["hyperparameters"].split())
        flags |= _hyperparameters(technique, sparsity, published)
    comment = f"{_published(model, sparsity, rows)} ({SOURCE})"
    return _flagfile(comment, flags, overrides)


def _hyperparameters(technique, sparsity, published):
    """The flags for what the table says of a technique."""
    if technique in LEARNED:
        # The penalty's ramp; the sparsity is what comes out.
        begin = int(published.pop("begin"))
        end = published.pop("end", None)
        length = published.pop("length") if end is None else int(end) - begin
        return {"ramp_begin": begin, "ramp_length": length, **published}
    # The extended runs' own target makes up for the layers that stay denser.
    return {"sparsity": sparsity} | {
        FLAGS.get(key, key): value for key, value in published.items()
    }


def _published(model, sparsity, rows):
    scores = [float(row["score"]) for row in rows]
    text = f"Published: {sum(scores) / len(scores):.2f} {UNITS[model]}"
    if float(sparsity):
        text += f" at a sparsity of {sparsity}"
    return text if len(scores) == 1 else f"{text}, mean of {len(scores)} runs"


def main():
    for name, text in recipes().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

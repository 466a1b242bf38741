"""Writes the published settings as flagfiles for the training binaries.

  python bin/recipes/generate.py

`published_results.csv` holds the best published score of each technique and sparsity,
with its hyperparameters: Gale, Elsen & Hooker 2019, "The State of Sparsity in Deep
Neural Networks" (arXiv 1902.09574). A recipe is written for each row whose technique
the binaries have. What a recipe leaves out is what the binary does on its dataset
unless a flag says otherwise: the paper's common settings.

L0 regularization has no row for ResNet-50, as none of the published attempts gave a
sparse model that kept its accuracy. There are recipes for what was tried: each initial
log alpha, with the middle of its weights.

`published_scratch_and_lottery.csv` holds what networks scored that were trained alone,
with the masks of finished runs of magnitude pruning. A recipe is written for each row,
and for the runs that found the masks where the first table does not have them.

`published_techniques.csv` holds what later techniques scored on ResNet-50, with the
paper, the cost of training as its authors count it, and what of the settings is
inferred. There, "15ep" is that many epochs in steps: epochs times the 1,281,167 images,
over the images of a step.
"""

import csv
import pathlib

FOLDER = pathlib.Path(__file__).parent
SOURCE = "Gale, Elsen & Hooker 2019, arXiv 1902.09574"

# Flags for what the table calls by another name.
LEARNED = ("variational_dropout", "l0_regularization")
FLAGS = {"begin": "begin_step", "end": "end_step", "layer_target": "sparsity"}
# What the published code does, and the tables do not say: masks are renewed at
# multiples of the frequency only, and from weights that keep their values. (In a random
# order, these do not matter.)
MULTIPLE = {"last_renewal": "multiple"}
PRUNING = {
    "magnitude_pruning": {"masked_weights": "return", **MULTIPLE},
    "random_pruning": MULTIPLE,
}

STANDARD = {"train_steps": "128000", "batch_size": "1024"}
# 1.5 times the epochs of the standard runs.
EXTENDED = {"train_steps": "48000", "batch_size": "4096", "decay_epochs": "45,90,120"}
# They leave the first layer dense, and the last one at most 80 % sparse.
NON_UNIFORM = ("conv1=dense", "logits=0.8")

# The paper starts ResNet-50 from a log variance of -15. Both ramps there are linear.
VARIATIONAL = {**STANDARD, "initial_log_sigma2": "-15", "ramp": "linear"}

# 2,048 positions are published of each core of a TPU, and not how many cores. Eight are
# the default of the code, without which its lottery tickets could not load weights.
TRANSFORMER = {"train_steps": "500000", "tokens_per_step": "16384"}
BATCH = """\
# Inferred: the tokens of a step. Published are 2,048 on each core, most likely of 8.
# One device takes them in parts of 2,048 with --accumulate_steps=8."""
# What the table does not say of the dense runs.
DENSE = {
    "resnet50": {"label_smoothing": "0.0"},
    "transformer": {"dropout": "0.1", "label_smoothing": "0.1"},
}

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
# What nothing published says, by model and name in the tables.
INFERRED = {
    "resnet50": {
        "dense": "label smoothing: of sparse runs both 0 and 0.1 are published",
        "magnitude_pruning_extended": "the epochs of the decay: 30, 60 and 80 times "
        "1.5, as the steps; the warm-up stays",
        "random_pruning": "the renewals: those of magnitude pruning, whose code is "
        "published",
        "l0_regularization": "where the ramp begins and ends",
    },
    "transformer": {
        "dense": "dropout and label smoothing: of sparse runs both 0 and 0.1 are "
        "published",
        "scratch_b": "that it has twice the steps, as on ResNet-50",
    },
}
# What was tried of L0 regularization on ResNet-50: by the initial log alpha, the least
# and the largest weight, times the number of images, and the weight decay, which is
# 1e-4 over the initial probability that a gate is open. It was tried without weight
# decay, too, and each with label smoothing of 0 and of 0.1.
L0_ATTEMPTS = {
    "4.6": (4200, 4390, "1.01005e-4"),
    "2.95": (890, 910, "1.05234e-4"),
    "2.197": (400, 495, "1.11114e-4"),
    "0.847": (160, 179, "1.42870e-4"),
}
IMAGES = 1_281_167

# By the name in the table of later techniques: the technique, and what is no
# hyperparameter.
LATER = {
    "acdc": ("acdc", {}),
    "feather": ("feather", {}),
    "rigl_erk": ("rigl", {"budget": "erk"}),
    "srste": ("srste", {}),
    "st3": ("st3", {}),
    "st3_sigma": ("st3", {"by_fan": "true"}),
    "str": ("str", {}),
}
# Their sparsity is no flag: what comes out, or said by the pattern.
WITHOUT_SPARSITY = ("srste", "str")

# Of scratch-b: as many operations as of the dense network, and at most twice the steps,
# which is what comes of it where half of the weights go, or more. The Transformer's
# learning rate has no schedule to stretch.
MULTIPLIER = "2"
REGULARIZATION = {
    "dropout+label_smoothing": {"dropout": "0.1", "label_smoothing": "0.1"},
    "label_smoothing": {"dropout": "0.0", "label_smoothing": "0.1"},
    "none": {"dropout": "0.0", "label_smoothing": "0.0"},
}

DATASETS = {"resnet50": "imagenet2012", "transformer": "wmt14_translate/de-en"}
UNITS = {"resnet50": "% top-1", "transformer": "BLEU"}


def recipes() -> dict[str, str]:
    """The text of each flagfile, by its name."""
    rows = [
        row
        for row in _table("published_results.csv")
        if row["technique"] in TECHNIQUES[row["model"]]
    ]
    published: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        setting = row["model"], row["technique"], row["sparsity"]
        published.setdefault(setting, []).append(row)
    texts = {
        _file_name(*setting): _text(*setting, group)
        for setting, group in published.items()
    } | _l0_attempts()
    for row in _table("published_scratch_and_lottery.csv"):
        texts |= _alone(row, texts)
    return texts | dict(map(_later, _table("published_techniques.csv")))


def _table(name):
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _later(row):
    """The name and the text of the recipe of a later technique."""
    model, name, sparsity = row["model"], row["technique"], row["sparsity"]
    technique, further = LATER[name]
    settings = dict(word.split("=") for word in row["hyperparameters"].split())
    epochs, batch_size = settings.pop("epochs", None), int(settings["batch_size"])
    lines = [
        f"Published: {float(row['score']):.2f} {UNITS[model]} at a sparsity of "
        f"{sparsity}, with {row['cost']} of dense training",
        f"# ({row['source']})",
        f"# Inferred: {row['inferred']}.",
    ]
    if epochs is not None:
        settings = {"train_steps": f"{epochs}ep"} | settings
    steps = {k: _in_steps(value, batch_size) for k, value in settings.items()}
    target = {} if name in WITHOUT_SPARSITY else {"sparsity": sparsity}
    flags = {"dataset": DATASETS[model], "technique": technique, **target, **further}
    return _file_name(model, name, sparsity), _flagfile(
        "\n".join(lines), flags | steps, ()
    )


def _in_steps(text, batch_size):
    """A value, or a list of them, whose epochs become steps."""
    return ",".join(
        str(round(float(part.removesuffix("ep")) * IMAGES / batch_size))
        if part.endswith("ep")
        else part
        for part in text.split(",")
    )


def _l0_attempts():
    """What was tried of L0 regularization on ResNet-50."""
    technique, texts = "l0_regularization", {}
    for log_alpha, (least, largest, weight_decay) in L0_ATTEMPTS.items():
        flags = {
            "dataset": DATASETS["resnet50"],
            **STANDARD,
            "technique": technique,
            "initial_log_alpha": log_alpha,
            "l0_weight": f"{(least + largest) / 2 / IMAGES:.6g}",
            "ramp": "linear",
            "ramp_begin": "0",
            "ramp_length": "1",
            "weight_decay": weight_decay,
            "label_smoothing": "0.0",
        }
        comment = f"Published: no sparse model that kept its accuracy ({SOURCE})"
        comment += _inferred("resnet50", technique)
        name = f"resnet50_{technique}_log_alpha_{log_alpha}.flags"
        texts[name] = _flagfile(comment, flags, ())
    return texts


def _alone(row, texts):
    """The recipe of a network that is trained alone, and of the run with its masks.

    The latter only if its settings are not those of a recipe among `texts`.
    """
    model, sparsity = row["model"], row["sparsity"]
    settings = STANDARD if model == "resnet50" else TRANSFORMER
    common = {"dataset": DATASETS[model], **settings}
    pruning = {
        "technique": "magnitude_pruning",
        "sparsity": sparsity,
        **PRUNING["magnitude_pruning"],
        "begin_step": row["mask_begin_step"],
        "end_step": row["mask_end_step"],
        "frequency": row["mask_frequency"],
    }
    source = f"{model}_magnitude_pruning_{sparsity}.flags"
    masks = {}
    if set(_lines(common | pruning | _regularization(row))) != _flags(texts[source]):
        source = f"{model}_magnitude_pruning_masks_{sparsity}.flags"
        comment = (
            f"Published: masks of {sparsity} for training alone, without a score "
            f"({SOURCE})"
        )
        flags = common | pruning | _regularization(row)
        masks[source] = _flagfile(comment, flags, ())
    flags = {**common, "technique": "fixed_mask", **_schedule(row)}
    needed = "--load_masks_from"
    if row["experiment"] == "lottery_ticket":
        needed += " and --load_weights_from"
    comment = (
        f"{_mean_of_many(row)} ({SOURCE})\n# Needs {needed}: the folder of a run of "
        f"{source}{_inferred(model, row['experiment'])}"
    )
    text = _flagfile(comment, flags | _regularization(row), ())
    return masks | {_name_alone(row): text}


def _schedule(row):
    flags = {"init": "sparse"} if row["initialization"] == "augmented" else {}
    if row["experiment"] == "scratch_b":
        flags["train_steps_multiplier"] = row["time_multiplier"] or MULTIPLIER
        if row["learning_rate_schedule"]:
            flags["stretch_schedule"] = row["learning_rate_schedule"]
    return flags


def _regularization(row):
    text = row["regularization"]
    return REGULARIZATION.get(text) or dict([text.split("=")])


def _name_alone(row):
    parts = [row["model"], row["experiment"]]
    if row["experiment"] == "scratch_b" and row["learning_rate_schedule"]:
        parts.append(row["learning_rate_schedule"])
    if row["initialization"] == "augmented":
        parts.append("augmented")
    return "_".join([*parts, row["sparsity"]]) + ".flags"


def _mean_of_many(row):
    text = (
        f"Published: {float(row['mean']):.2f} {UNITS[row['model']]} at a sparsity of "
        f"{row['sparsity']}, mean of {row['runs']} runs"
    )
    failed = int(row["failed_runs"])
    return f"{text}, {failed} failed" if failed else text


def _flags(text):
    return {line for line in text.splitlines() if line.startswith("--")}


def _lines(flags):
    return [f"--{flag}={value}" for flag, value in flags.items()]


def _inferred(model, name):
    """The line of a comment on what is inferred, if something is."""
    text = INFERRED[model].get(name)
    return f"\n# Inferred: {text}." if text else ""


def _flagfile(comment, flags, overrides):
    batch = [BATCH] if "tokens_per_step" in flags else []
    lines = [f"# {comment}", *batch, *_lines(flags)]
    lines += [f"--override={override}" for override in overrides]
    return "\n".join([*lines, ""])


def _file_name(model, name, sparsity):
    suffix = "" if name == "dense" else f"_{sparsity}"
    return f"{model}_{name}{suffix}.flags"


def _text(model, name, sparsity, rows):
    technique, settings, overrides = TECHNIQUES[model][name]
    flags = {"dataset": DATASETS[model], **settings, "technique": technique}
    if technique == "dense":
        flags |= DENSE[model]
    else:
        published = dict(p.split("=") for p in rows[0]["hyperparameters"].split())
        flags |= _hyperparameters(technique, sparsity, published)
    comment = f"{_published(model, sparsity, rows)} ({SOURCE})"
    comment += _inferred(model, name)
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
    return {"sparsity": sparsity, **PRUNING[technique]} | {
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

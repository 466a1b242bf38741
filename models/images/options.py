"""The options of a training run on images."""

import dataclasses
import math

from state_of_sparsity.models.images.networks import NETWORKS
from state_of_sparsity.models.images.resnet import DEPTHS
from state_of_sparsity.models.training.options import Options, Preset, check_choice

OPTIMIZERS = ("sgd", "adam")
STEPS, COSINE = "steps", "cosine"
PRESETS = {
    "digits": Preset(
        options={
            "network": "resnet",
            "depth": 50,
            "width": 0.25,
            "train_steps": 600,
            "batch_size": 64,
            "optimizer": "sgd",
            "learning_rate": 0.2,
            "warmup_epochs": 3.0,
            "decay_epochs": (20.0, 26.0, 29.0),
            # As the ramp below, by validation: see docs/study.md.
            "weight_decay": 5e-3,
            "label_smoothing": 0.0,
            "eval_steps": 100,
        },
        technique={
            "sparsity": 0.9,
            "begin_step": 1 / 6,
            "end_step": 2 / 3,
            "frequency": 1 / 60,
            "kl_weight": 1e-4,
            # None makes a sparse ResNet that keeps its accuracy; see README.
            "l0_weight": 1e-2,
            "ramp_length": 1 / 2,
            "threshold_init": -5.0,
            # Ten images of each class, as published for GraSP; so below.
            "mask_batches": 2,
        },
        # The data is embedded.
        without=("data_dir",),
    ),
    "mnist1d": Preset(
        options={
            "network": "cnn1d",
            "depth": 50,
            "width": 1.0,
            "train_steps": 1_500,
            "batch_size": 64,
            "optimizer": "adam",
            "learning_rate": 1e-2,
            "warmup_epochs": 1.0,
            "decay_epochs": (12.0, 17.0, 21.5),
            "weight_decay": 3e-4,
            "label_smoothing": 0.0,
            "eval_steps": 500,
        },
        technique={
            "sparsity": 0.9,
            "begin_step": 1 / 10,
            "end_step": 1 / 2,
            "frequency": 1 / 50,
            "kl_weight": 3e-4,
            "l0_weight": 3e-3,
            "ramp_length": 1 / 5,
            "threshold_init": -5.0,
            "mask_batches": 2,
        },
        # The data is generated.
        without=("data_dir",),
    ),
    "mnist": Preset(
        options={
            "network": "lenet_300_100",
            "depth": 50,
            "width": 1.0,
            "train_steps": 20_000,
            "batch_size": 128,
            "optimizer": "adam",
            "learning_rate": 1.2e-3,
            "warmup_epochs": 1.0,
            "decay_epochs": (24.0, 35.0, 42.0),
            "weight_decay": 0.0,
            "label_smoothing": 0.0,
            "eval_steps": 1_000,
        },
        technique={
            "sparsity": 0.9,
            "begin_step": 1 / 4,
            "end_step": 3 / 4,
            "frequency": 1 / 100,
            # The whole penalty for each pass over the examples, as published.
            "kl_weight": 1 / 55_000,
            "l0_weight": 0.1 / 55_000,
            "ramp_length": 1 / 2,
            "threshold_init": -5.0,
        },
    ),
    "imagenet2012": Preset(
        options={
            "network": "resnet",
            "depth": 50,
            "width": 1.0,
            "train_steps": 128_000,
            "batch_size": 1024,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "warmup_epochs": 5.0,
            "decay_epochs": (30.0, 60.0, 80.0),
            "weight_decay": 1e-4,
            "label_smoothing": 0.0,
            "eval_steps": 2_000,
            "batch_norm_batch": 128,
        },
        technique={
            "sparsity": 0.9,
            "begin_step": 40 / 128,
            "end_step": 76 / 128,
            "frequency": 2 / 128,
            # As published, with a weight decay of 2.2518e-5, for 90 %.
            "threshold_init": -3200.0,
            "mask_batches": 10,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class ImageOptions(Options):
    """What a run on images is, apart from the technique.

    Options that are None take the value that goes with the dataset.

    Attributes:
      dataset: digits (embedded), mnist1d (generated), mnist or imagenet2012 (both from
        --data_dir).
      data_dir: folder of datasets prepared by TFDS.
      network: resnet, lenet_300_100, lenet5, or cnn1d, which is for signals. By default
        cnn1d on mnist1d, lenet_300_100 on mnist, and resnet elsewhere.
      depth: of the ResNet: 18, 34, 50 (the default), 101, 152 or 200.
      width: multiplies the number of channels of every convolution, and of units of
        every hidden layer.
      train_steps: number of training steps.
      batch_size: images per step, over all replicas.
      accumulate_steps: equal parts in which each replica takes its images of a step,
        one after the other, for want of memory. The step is that of all of them, with
        batch normalization over the images of a part, or of batch_norm_batch.
      batch_norm_batch: most images over which batch normalization takes mean and
        variance: a replica with more of them normalizes equal parts. By default 128 on
        imagenet2012, and all images of a replica elsewhere.
      optimizer: sgd, with Nesterov momentum, or adam.
      learning_rate: of sgd for 256 images per step, scaled to the batch size; of adam
        as it is.
      momentum: of sgd.
      schedule: of the learning rate after the warm-up: steps, at decay_epochs, or
        cosine, which is 0 after the last step.
      warmup_epochs: epochs in which the learning rate grows linearly from 0.
      decay_epochs: epochs at which the learning rate is divided by ten.
      weight_decay: of kernels, and of the thresholds of str, added to their gradient.
      label_smoothing: share of the probability that goes to all classes evenly.
      eval_steps: steps from one evaluation and checkpoint to the next.
      export: last, or best: which state is exported, scored on the test split and
        evaluated later; the best in validation is looked for once the schedules of the
        technique are over.
      seed: of initial weights, order of the data, augmentation and random pruning.
      precision: float32, mixed_float16 or mixed_bfloat16.
      distribution: auto, one_device, mirrored or multi_worker (from TF_CONFIG).
    """

    presets = PRESETS
    at_least_one = (*Options.at_least_one, "batch_size")
    positive = (*Options.positive, "width")
    not_negative = (*Options.not_negative, "warmup_epochs", "weight_decay")
    fractions = (*Options.fractions, "momentum")

    dataset: str = "digits"
    data_dir: str | None = None
    network: str | None = None
    depth: int | None = None
    width: float | None = None
    train_steps: int | None = None
    batch_size: int | None = None
    accumulate_steps: int = 1
    batch_norm_batch: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float = 0.9
    schedule: str = STEPS
    warmup_epochs: float | None = None
    decay_epochs: tuple[float, ...] | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    eval_steps: int | None = None
    export: str = "last"
    seed: int = 0
    precision: str = "float32"
    distribution: str = "auto"

    def resolved(self):
        options = super().resolved()
        preset = self.presets[self.dataset].options
        changes = {}
        if self.schedule == COSINE:
            self._require(
                "decay_epochs",
                not self.decay_epochs,
                "be left out with schedule=cosine, which has none",
            )
            changes["decay_epochs"] = ()
        if options.network != preset["network"] and self.width is None:
            # The dataset's is for its own network.
            changes["width"] = 1.0
        own = NETWORKS[options.network].options
        for name in {name for other in NETWORKS.values() for name in other.options}:
            if name not in own:
                self._require(
                    name,
                    getattr(self, name) is None,
                    f"be left out with network={options.network}, which has none",
                )
                changes[name] = None
        return dataclasses.replace(options, **changes)

    def check(self):
        check_choice("network", self.network, NETWORKS)
        check_choice("depth", self.depth, DEPTHS)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, (STEPS, COSINE))
        super().check()
        if self.batch_norm_batch is not None:
            holds = self.batch_norm_batch >= 1
            self._require("batch_norm_batch", holds, "be at least 1")
        epochs = list(self.decay_epochs)
        if epochs != sorted(epochs) or not all(0 <= e < math.inf for e in epochs):
            raise ValueError(
                f"decay_epochs must be in order, none negative. Received: {epochs}"
            )

    def stretched(self, multiplier, schedule):
        if self.schedule == COSINE and schedule != "scaled":
            raise ValueError(
                "stretch_schedule must be scaled with schedule=cosine, which ends with "
                f"the run. Received: {schedule}"
            )
        return super().stretched(multiplier, schedule)

    def _scaled_schedule(self, multiplier):
        return {
            "warmup_epochs": self.warmup_epochs * multiplier,
            "decay_epochs": tuple(epoch * multiplier for epoch in self.decay_epochs),
        }

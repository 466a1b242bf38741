"""Classifying images: the first task of the paper, with its ResNet and others."""

import math
import os

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.images.dataset import ImageDataset
from state_of_sparsity.models.images.digits import Digits
from state_of_sparsity.models.images.imagenet import ImageNet
from state_of_sparsity.models.images.mnist import MNIST
from state_of_sparsity.models.images.mnist1d import MNIST1D
from state_of_sparsity.models.images.networks import NETWORKS, Setting
from state_of_sparsity.models.images.options import COSINE, ImageOptions
from state_of_sparsity.models.images.smaller import twin
from state_of_sparsity.models.training.devices.strategy import counted
from state_of_sparsity.models.training.loop.learning_rate import (
    WarmupThenCosine,
    WarmupThenSteps,
)
from state_of_sparsity.models.training.loop.losses import SmoothedCrossEntropy
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.run_folder import RunFolder

DATASETS = {
    "digits": lambda options: Digits(),
    "mnist1d": lambda options: MNIST1D(),
    "mnist": lambda options: MNIST(options.data_dir),
    "imagenet2012": lambda options: ImageNet(options.data_dir),
}


class ImageTask(Task):
    """A network, its data, and how it is trained (Gale et al. 2019, section 5).

    Args:
      options: resolved.
      folder: the run's folder, of which images need nothing.

    Raises:
      ValueError: if the network takes no images of the dataset's shape, or a batch
        cannot be taken in equal parts.
    """

    quality_metric = "top1"

    def __init__(self, options: ImageOptions, folder: RunFolder | None = None):
        del folder
        self.options = options
        self.dataset: ImageDataset = DATASETS[options.dataset](options)
        # Task and model are made under the strategy.
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._images_per_part = options.at_a_time(options.batch_size, self._replicas)
        _check_memory(options.batch_size, self.dataset.image_shape)
        # Where networks have several depths, it is said which.
        self.name = f"{options.network}{options.depth or ''}"
        self._network = NETWORKS[options.network]
        shape = self.dataset.image_shape
        if self._network.rank not in (None, len(shape)):
            raise ValueError(
                f"network={options.network} takes images of rank {self._network.rank}, "
                f"and dataset={options.dataset} has the shape {shape}: choose another "
                "network."
            )

    @property
    def steps_per_epoch(self):
        return self.dataset.training_examples / self.options.batch_size

    @property
    def examples_per_step(self):
        return self.options.batch_size

    @property
    def batch(self):
        images = f"{self.options.batch_size:,} images on {counted(self._replicas)}"
        images += self.options.in_parts
        if "batch_norm_batch" not in self._network.options:
            return images
        normalized = math.ceil(self._images_per_part / self._batch_norm_parts)
        return f"{images}, with batch normalization over {normalized:,}"

    def build(self):
        return self._network.build(self._setting)

    def in_keras3(self, model):
        return twin(model, self._network, self._setting)

    @property
    def _setting(self):
        return Setting(
            image_shape=self.dataset.image_shape,
            classes=self.dataset.classes,
            width=self.options.width,
            weight_decay=self.options.weight_decay,
            depth=self.options.depth,
            batch_norm_parts=self._batch_norm_parts,
        )

    @property
    def _batch_norm_parts(self):
        most = self.options.batch_norm_batch
        return 1 if most is None else math.ceil(self._images_per_part / most)

    def compile(self, model):
        sgd = self.options.optimizer == "sgd"
        rate = self._learning_rate(self.options.batch_size / 256 if sgd else 1.0)
        model.compile(
            keras.optimizers.SGD(rate, self.options.momentum, nesterov=True)
            if sgd
            else keras.optimizers.Adam(rate),
            SmoothedCrossEntropy(self.options.label_smoothing),
            metrics=[keras.metrics.SparseCategoricalAccuracy("top1")],
        )

    def _learning_rate(self, scale):
        options, epoch = self.options, self.steps_per_epoch
        peak = options.learning_rate * scale
        warmup_steps = round(options.warmup_epochs * epoch)
        if options.schedule == COSINE:
            return WarmupThenCosine(peak, warmup_steps, options.train_steps)
        boundaries = [round(boundary * epoch) for boundary in options.decay_epochs]
        return WarmupThenSteps(peak, warmup_steps, boundaries)

    def training_data(self, start_step):
        return self.dataset.training(
            self.options.batch_size, self.options.seed, start_step
        )

    def evaluation_data(self, split):
        return self.dataset.evaluation(split, min(self.options.batch_size, 256))

    def damage(self):
        return self.dataset.damage()


def _check_memory(batch_size, image_shape):
    """Raises ValueError for a batch that would fill the memory before its first step.

    A batch is put together in the memory of the machine, whatever its devices have.
    """
    needed = 4 * batch_size * math.prod(image_shape)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        shape = "x".join(map(str, image_shape))
        raise ValueError(
            f"batch_size must be smaller: as many images of {shape} take "
            f"{needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f} GB of "
            f"memory. Received: {batch_size}"
        )

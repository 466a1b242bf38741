"""Classifying images with a ResNet: the first task of the paper."""

import math

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.images.dataset import ImageDataset
from state_of_sparsity.models.images.digits import Digits
from state_of_sparsity.models.images.imagenet import ImageNet
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.resnet import resnet
from state_of_sparsity.models.training.distribution import counted
from state_of_sparsity.models.training.learning_rate import WarmupThenSteps
from state_of_sparsity.models.training.loop import Task
from state_of_sparsity.models.training.losses import SmoothedCrossEntropy
from state_of_sparsity.models.training.run_folder import RunFolder

DATASETS = {
    "digits": lambda options: Digits(),
    "imagenet2012": lambda options: ImageNet(options.data_dir),
}


class ImageTask(Task):
    """A ResNet, its data, and how it is trained (Gale et al. 2019, section 5)."""

    quality_metric = "top1"

    def __init__(self, options: ImageOptions, folder: RunFolder | None = None):
        del folder
        self.options = options
        self.dataset: ImageDataset = DATASETS[options.dataset](options)
        # Task and model are made under the strategy.
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._images_per_replica = math.ceil(options.batch_size / self._replicas)
        self.name = f"resnet{options.depth}"

    @property
    def steps_per_epoch(self):
        return self.dataset.training_examples / self.options.batch_size

    @property
    def examples_per_step(self):
        return self.options.batch_size

    @property
    def batch(self):
        normalized = math.ceil(self._images_per_replica / self._batch_norm_parts)
        return (
            f"{self.options.batch_size:,} images on {counted(self._replicas)}, with "
            f"batch normalization over {normalized:,}"
        )

    def build(self):
        return resnet(
            self.options.depth,
            self.dataset.classes,
            self.options.width,
            self.dataset.image_shape,
            self.options.weight_decay,
            self._batch_norm_parts,
        )

    @property
    def _batch_norm_parts(self):
        most = self.options.batch_norm_batch
        return 1 if most is None else math.ceil(self._images_per_replica / most)

    def compile(self, model):
        epoch = self.steps_per_epoch
        rate = WarmupThenSteps(
            self.options.learning_rate * self.options.batch_size / 256,
            round(self.options.warmup_epochs * epoch),
            [round(boundary * epoch) for boundary in self.options.decay_epochs],
        )
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
            SmoothedCrossEntropy(self.options.label_smoothing),
            metrics=[keras.metrics.SparseCategoricalAccuracy("top1")],
        )

    def training_data(self, start_step):
        return self.dataset.training(
            self.options.batch_size, self.options.seed, start_step
        )

    def evaluation_data(self, split):
        return self.dataset.evaluation(split, min(self.options.batch_size, 256))

"""Classifying images with a ResNet: the first task of the paper."""

from state_of_sparsity.backend import keras, tf
from state_of_sparsity.models.digits import Digits
from state_of_sparsity.models.image_dataset import ImageDataset
from state_of_sparsity.models.image_options import ImageOptions
from state_of_sparsity.models.imagenet import ImageNet
from state_of_sparsity.models.learning_rate import WarmupThenSteps
from state_of_sparsity.models.resnet import resnet
from state_of_sparsity.models.training import Task

DATASETS = {
    "digits": lambda options: Digits(),
    "imagenet2012": lambda options: ImageNet(options.data_dir),
}


class ImageTask(Task):
    """A ResNet, its data, and how it is trained (Gale et al. 2019, section 5)."""

    quality_metric = "top1"

    def __init__(self, options: ImageOptions):
        self.options = options
        self.dataset: ImageDataset = DATASETS[options.dataset](options)
        self.name = f"resnet{options.depth}"

    @property
    def steps_per_epoch(self):
        return self.dataset.training_examples / self.options.batch_size

    def build(self):
        return resnet(
            self.options.depth,
            self.dataset.classes,
            self.options.width,
            self.dataset.image_shape,
            self.options.weight_decay,
        )

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


@keras.utils.register_keras_serializable("state_of_sparsity")
class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross entropy of integer labels and logits, with label smoothing.

    `-sum_c q_c log softmax(logits)_c` with `q_c = (1 - s) [c = label] + s / classes`.

    Args:
      label_smoothing: the share `s` of the probability that goes to all classes.
    """

    def __init__(self, label_smoothing=0.0, name="cross_entropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        labels = tf.one_hot(tf.reshape(y_true, [-1]), tf.shape(y_pred)[-1])
        return keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}

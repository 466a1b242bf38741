"""Random pruning: the baseline that every criterion has to beat."""

import dataclasses

from state_of_sparsity.backend import keras, tf
from state_of_sparsity.checks import check_integer
from state_of_sparsity.techniques.pruning import PruningTechnique


@keras.utils.register_keras_serializable("state_of_sparsity")
@dataclasses.dataclass(frozen=True)
class RandomPruning(PruningTechnique):
    """Weights go in a random order, drawn once (Gale et al. 2019, section 3.4).

    The score of a weight is a uniform random number that depends on the seed and
    on the weight's place in the model only. So pruning is cumulative: what is
    pruned at one step stays pruned at the next.

    Attributes:
      sparsity: share of the weights of each tensor that is zero after the ramp.
      begin_step: training step at which pruning begins.
      end_step: training step at which the final sparsity is reached.
      frequency: training steps from one renewal of the masks to the next.
      seed: of the random order.
    """

    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_integer("seed", self.seed, minimum=0)

    def score(self, weight, stream):
        layer, position = stream
        seed = tf.random.fold_in([self.seed, layer], position)
        return tf.random.stateless_uniform(weight.shape, seed)

"""A part of a run that trains once: the whole, or a round of iterative pruning."""

from state_of_sparsity.engines.tf_keras.backend import keras


class Leg:
    """One training of a run, which may train several times: see `rounds`.

    Args:
      first_step: of the schedule of the learning rate, and of the data, at which it
        begins.
      steps_before: training steps that the run took before.
    """

    def __init__(self, first_step: int = 0, steps_before: int = 0):
        self.first_step = first_step
        self.steps_before = steps_before

    def step_of_run(self, step: int) -> int:
        """How many steps the run has taken at a step of the schedule."""
        return self.steps_before + step - self.first_step

    def check(self, dense: keras.Model) -> None:
        """Raises ValueError if trainings that follow could not be.

        Args:
          dense: of `build_dense`.
        """

    def conclude(self, model: keras.Model, result: dict) -> dict:
        """What result.json says, and whatever else is to be there before it.

        Args:
          model: that was trained.
          result: what it says of this training alone.
        """
        del model
        return result

"""A training run: what its settings say, and the settings that repeat it."""

import dataclasses

from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.task import ImageTask
from state_of_sparsity.models.runs.settings import DENSE, POWER, as_text
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.options import Options
from state_of_sparsity.models.training.rewinding.kept_weights import Start
from state_of_sparsity.models.training.rewinding.rounds import Rounds
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask

# The options and the task of each training binary.
TRAINERS = {
    "train_resnet50": (ImageOptions, ImageTask),
    "train_transformer": (TranslationOptions, TranslationTask),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: what its settings say.

    Attributes:
      binary: that trains it.
      options: what it is, apart from the technique.
      sparsification: how it is made sparse.
      start: the values that it begins with.
      rounds: of iterative pruning, whose last is as sparse as `sparsification` says;
        None to train once.
      checkpoint_every_steps: between evaluations. It is no part of what the run is, and
        may change from one start to the next.
    """

    binary: str
    options: Options
    sparsification: Sparsification
    start: Start
    rounds: Rounds | None = None
    checkpoint_every_steps: int | None = None

    def task(self, folder: RunFolder) -> Task:
        return TRAINERS[self.binary][1](self.options, folder)

    def flags(self) -> dict[str, str | list[str]]:
        """The flags that repeat the run, apart from --output_dir."""
        settings = as_text(self.options, self.start)
        settings["technique"] = self.sparsification.name
        if self.rounds:
            settings |= as_text(self.rounds)
            if self.rounds.prune_fraction is None:
                settings["sparsity"] = str(self.sparsification.target_sparsity)
        elif self.sparsification.technique:
            settings |= as_text(self.sparsification.pruning)
            if self.sparsification.power is not None:
                settings[POWER] = str(self.sparsification.power)
        settings["override"] = [
            f"{pattern}={DENSE if sparsity is None else sparsity}"
            for pattern, sparsity in self.sparsification.overrides.items()
        ]
        if self.sparsification.budget is not None:
            settings["budget"] = self.sparsification.budget
        settings |= self.sparsification.source
        return settings

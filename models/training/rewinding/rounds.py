"""Iterative magnitude pruning: train, mask what is smallest, go back, train again."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity import masks
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop.leg import Leg
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.options import check_choice
from state_of_sparsity.models.training.rewinding.kept_weights import Start
from state_of_sparsity.models.training.run_folder import RunFolder

REWINDS = ("weights", "learning_rate")
DEFAULT_FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class Rounds:
    """How often to mask, how much each time, and what is set back to which step.

    A network is trained dense. Then, in each round, the smallest of the weights that
    are left in a layer are masked for good, training is set back to an early step, and
    goes on from there to its end. With the weights set back, it is how lottery tickets
    are found (Frankle & Carbin 2019, arXiv 1803.03635; from a later step than the
    first, Frankle et al. 2020, arXiv 1912.05671). Setting back the schedule alone is
    learning-rate rewinding (Renda et al. 2020, arXiv 2003.02389).

    Attributes:
      rounds: of iterative magnitude pruning: after a dense training, so many times the
        smallest weights are masked, and training is set back.
      prune_fraction: share of the weights left that each of the rounds masks; N of them
        make a sparsity of 1 - (1 - prune_fraction)^N. By default 0.2, unless --sparsity
        says what all rounds together come to.
      rewind: what is set back after masking: weights (the default), and the schedule of
        the learning rate with them; or learning_rate, the schedule alone.
      rewind_to_step: the step that they are set back to; by default 0, the beginning.

    Raises:
      ValueError: for a value that will not do, naming it.
    """

    rounds: int | None = None
    prune_fraction: float | None = None
    rewind: str | None = None
    rewind_to_step: int | None = None

    def __post_init__(self):
        if self.rounds is None:
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                if value is not None:
                    raise ValueError(f"{field.name} needs rounds. Received: {value}")
        elif self.rounds < 1:
            raise ValueError(f"rounds must be at least 1. Received: {self.rounds}")
        if self.prune_fraction is not None and not 0 < self.prune_fraction < 1:
            raise ValueError(
                "prune_fraction must be above 0 and below 1. Received: "
                f"{self.prune_fraction}"
            )
        if self.rewind is not None:
            check_choice("rewind", self.rewind, REWINDS)
        if self.rewind_to_step is not None and self.rewind_to_step < 0:
            raise ValueError(
                f"rewind_to_step must be at least 0. Received: {self.rewind_to_step}"
            )

    def resolved(self, sparsity: float | None, train_steps: int) -> "Rounds":
        """With the defaults filled in.

        Args:
          sparsity: of all rounds together, if it is given.
          train_steps: of a training.

        Raises:
          ValueError: if they do not go together.
        """
        fraction, step = self.prune_fraction, self.rewind_to_step or 0
        if sparsity is None:
            fraction = DEFAULT_FRACTION if fraction is None else fraction
        elif fraction is not None:
            raise ValueError(
                "prune_fraction and sparsity exclude each other: one follows from the "
                f"other. Received: prune_fraction={fraction}, sparsity={sparsity}"
            )
        elif not sparsity > 0:
            raise ValueError(
                f"sparsity must be above 0 with rounds. Received: {sparsity}"
            )
        if step >= train_steps:
            raise ValueError(
                f"rewind_to_step must be before the last of train_steps={train_steps}, "
                f"or nothing would be trained. Received: {step}"
            )
        return Rounds(self.rounds, fraction, self.rewind or REWINDS[0], step)

    def technique_defaults(self) -> dict[str, object]:
        """Hyperparameters of magnitude pruning for which there is no flag."""
        # Masks that are renewed between trainings have no schedule.
        defaults = {"begin_step": 0, "end_step": 0, "frequency": 1}
        if self.prune_fraction is not None:
            left = (1 - self.prune_fraction) ** self.rounds
            defaults["sparsity"] = _rounded(1 - left)
        return defaults

    def sparsity_after(self, done: int, final: float) -> float:
        """The sparsity after some of the rounds, `1 - (1 - final)^(done / rounds)`."""
        return _rounded(1 - (1 - final) ** (done / self.rounds))


def _rounded(sparsity):
    # What is 0.1 on paper shall mask as many weights as 0.1.
    return round(sparsity, 12)


class Round(Leg):
    """One training of iterative pruning: with masks that are fixed, but for the first.

    Everything that it begins with is in the run's folder before it begins, so that it
    does not matter whether the round before ended in this process.

    Args:
      number: 0 for the dense one.
      rounds: resolved.
      target: magnitude pruning, how sparse the last round is.
      folder: of the run.
      train_steps: last step of each training.
    """

    def __init__(
        self,
        number: int,
        rounds: Rounds,
        target: Sparsification,
        folder: RunFolder,
        train_steps: int,
    ):
        back = rounds.rewind_to_step
        trained_again = (number - 1) * (train_steps - back)
        super().__init__(
            first_step=back if number else 0,
            steps_before=train_steps + trained_again if number else 0,
        )
        self.number = number
        self._rounds = rounds
        self._target = target
        self._folder = folder
        self._train_steps = train_steps

    def folder(self, settings=None, header: str = "") -> RunFolder:
        """The round's folder; for the arguments see `RunFolder`."""
        return self._folder_of(self.number, settings, header)

    def _folder_of(self, number, settings=None, header=""):
        if number == self._rounds.rounds:
            return self._folder
        return self._folder.round(number, settings, header)

    def sparsification(self) -> Sparsification:
        """Its masks, from its folder; none for the dense round."""
        if not self.number:
            return Sparsification()
        return masked_as_in(self.folder())

    def start(self, first: Start) -> Start:
        """The values that it begins with, and those that it keeps.

        Args:
          first: those of the run.
        """
        keep, back = set(first.keep_steps or ()), self._rounds.rewind_to_step
        rewinds_weights = self._rounds.rewind == "weights"
        if rewinds_weights and back and not self.number:
            keep.add(back)
        elif not rewinds_weights and self.number < self._rounds.rounds:
            keep.add(self._train_steps)
        keep_steps = tuple(sorted(keep)) or None
        if not self.number:
            return dataclasses.replace(first, keep_steps=keep_steps)
        source = 0 if rewinds_weights else self.number - 1
        return Start(
            load_weights_from=str(self._folder_of(source).path.resolve()),
            weights_at_step=back if rewinds_weights else self._train_steps,
            keep_steps=keep_steps,
        )

    def ending_here(self) -> tuple[Rounds | None, Sparsification]:
        """The run of which this round would be the last: its rounds and its target.

        With a budget other than the same sparsity for all layers, that run would
        distribute its own target, which comes to nearly the same.
        """
        if not self.number:
            return None, Sparsification()
        technique, overrides = self._target.technique, self._target.overrides
        target = dataclasses.replace(
            self._target,
            technique=technique.with_sparsity(self._until_now(technique.sparsity)),
            overrides={
                pattern: None if sparsity is None else self._until_now(sparsity)
                for pattern, sparsity in overrides.items()
            },
        )
        return dataclasses.replace(self._rounds, rounds=self.number), target

    def _until_now(self, final):
        return self._rounds.sparsity_after(self.number, final)

    def check(self, dense: keras.Model) -> None:
        """Raises ValueError unless the rounds that follow a dense one can be.

        Args:
          dense: a model as `build_dense` makes it.
        """
        if not any(self._zeros(dense, 1).values()):
            raise ValueError(
                "A round would mask none of the weights: give fewer rounds, or a larger"
                f" prune_fraction or sparsity. Received: rounds={self._rounds.rounds}, "
                f"sparsity={self._target.target_sparsity}"
            )

    def conclude(self, model, result):
        """Writes the masks of the next round; gives the result of all until now."""
        if self.number < self._rounds.rounds:
            path = self._folder_of(self.number + 1).masks
            sos.save_masks(path, self._next_masks(model))
        before = self._folder_of(self.number - 1).read_result() if self.number else {}
        result = dict(result)
        for name in ("steps", "training_flops", "dense_training_flops"):
            result[name] += before.get(name, 0)
        if self.number:
            target = self.ending_here()[1]
            result["technique"] = target.name
            result["target_sparsity"] = target.target_sparsity
        own = {name: result[name] for name in ("steps", "quality", "sparsity")}
        return {**result, "rounds": [*before.get("rounds", []), own]}

    def _next_masks(self, model):
        plain = sos.strip(model)
        engine, zeros = engine_of(plain), self._zeros(plain, self.number + 1)
        kept, found = sos.weight_masks(model), {}
        for site in engine.sites(plain):
            for attribute, variable in site.weights.items():
                name = f"{site.path}/{attribute}"
                magnitudes = np.abs(engine.to_numpy(variable))
                # What is masked goes before what training has made zero.
                scores = np.where(kept[name], magnitudes, -1.0)
                lowest = masks.lowest(scores.astype("float32"), zeros[name])
                found[name] = ~np.asarray(lowest)
        return found

    def _zeros(self, plain, number):
        """How many weights of each tensor are masked in a round."""
        final, after = self._target.planned(plain), self._rounds.sparsity_after
        return {
            name: masks.zero_count(after(number, final[site.path]), math.prod(shape))
            for site in engine_of(plain).sites(plain)
            for name, shape in site.shapes().items()
        }


def unfinished(
    rounds: Rounds, target: Sparsification, folder: RunFolder, train_steps: int
) -> Iterator[Round]:
    """The rounds that are to be trained yet, each once the one before is finished.

    The arguments are those of `Round`.
    """
    for number in range(rounds.rounds + 1):
        round_ = Round(number, rounds, target, folder, train_steps)
        if not round_.folder().is_finished:
            yield round_


def masked_as_in(folder: RunFolder) -> Sparsification:
    """With the masks that a round's folder has.

    Raises:
      OSError, ValueError: if it has none.
    """
    return Sparsification(sos.FixedMask(sos.load_masks(folder.masks)))

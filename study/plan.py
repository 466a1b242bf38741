"""Which runs the study consists of.

An experiment is what is compared: a technique, or a way of training the network that
another run has found. It is run at some points, target sparsities or weights of a
penalty, with each seed. Runs that need others come in a later stage.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping

from state_of_sparsity.models.sweeps.configurations import Configuration
from state_of_sparsity.models.training.run_folder import RunFolder
from study.contenders import CONTENDERS

# Networks that are trained alone start from other values, and see the data in another
# order, than the run whose masks they have.
SEED_ALONE = 100


@dataclasses.dataclass(frozen=True)
class Lab:
    """A dataset, how it is trained on, and at which points.

    Attributes:
      name: of the dataset.
      binary: that trains on it.
      settings: flags of all of its runs.
      sparsities: of pruning.
      kl_weights: of variational dropout.
      l0_weights: of L0 regularization.
      alone: sparsities at which networks that were found are trained alone.
      first_dense: sparsities at which the first layer is left dense.
      in_full: whether initial values, layer budgets and shuffled masks are compared,
        too.
      contenders: sparsities at which all `CONTENDERS` are compared, with settings that
        trials have chosen.
      seeds: repetitions of each run.
      tried: configurations, of one seed each, that were tried on the validation split
        to choose the settings and weights, before those that are part of the study.
      chosen: what else there is to say of how settings were chosen.
    """

    name: str
    binary: str
    settings: Mapping[str, str]
    sparsities: tuple[float, ...]
    kl_weights: tuple[float, ...]
    l0_weights: tuple[float, ...]
    alone: tuple[float, ...]
    first_dense: tuple[float, ...] = ()
    in_full: bool = False
    contenders: tuple[float, ...] = ()
    seeds: int = 3
    tried: int = 0
    chosen: str = ""

    @property
    def stretch_schedule(self) -> str:
        """With more steps. What falls with the root of the step has no schedule."""
        is_root = self.binary == "train_transformer"
        return "constant_final" if is_root else "scaled"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the study.

    Attributes:
      experiment: what it is one of; see `EXPERIMENTS`.
      point: target sparsity, or the weight of the penalty.
      seed: number of the repetition.
      configuration: how it is trained.
      trial: the settings that it tries, of an experiment; None for a run of it.
    """

    experiment: str
    point: float
    seed: int
    configuration: Configuration
    trial: Mapping[str, object] | None = None


# By the name that the page gives them.
EXPERIMENTS = {
    "dense": "dense",
    "magnitude": "magnitude pruning",
    "random": "random pruning",
    "vd": "variational dropout",
    "l0": "L0 regularization",
    "first_dense": "magnitude pruning, first layer dense",
    "random_vd": "random pruning, layers as variational dropout's",
    "random_l0": "random pruning, layers as L0's",
    "lottery": "lottery ticket",
    "scratch_e": "scratch-e",
    "scratch_e_augmented": "scratch-e, augmented",
    "scratch_b": "scratch-b",
    "scratch_b_augmented": "scratch-b, augmented",
    "shuffled": "scratch-e, shuffled masks",
}
# At the sparsities of the paper's part; magnitude pruning's masks are `shuffled` there.
_OF_PAPER = ("magnitude", "random", "first_dense")
LATER = {
    name: contender.title
    for name, contender in CONTENDERS.items()
    if name not in _OF_PAPER
}
# With as many weights in each layer as a technique left there: an experiment for all
# that leave the same. Single weights at random places say nothing of whole channels.
RANDOM_MASKS = {
    name: CONTENDERS[name].random_masks or f"random_masks_{name}"
    for name in LATER
    if not CONTENDERS[name].has_structure
}
_OWN_MASKS = [name for name in RANDOM_MASKS if CONTENDERS[name].random_masks is None]
EXPERIMENTS |= LATER
EXPERIMENTS |= {
    RANDOM_MASKS[name]: f"random masks, layers as of {LATER[name]}"
    for name in _OWN_MASKS
}


def stages(
    lab: Lab, folder: pathlib.Path, merit: Callable[[Run], tuple]
) -> Iterator[list[Run]]:
    """The runs of a dataset; each stage needs what the ones before have left.

    Args:
      lab: the dataset.
      folder: of its runs.
      merit: of a finished trial, by which the best one is chosen.
    """
    trials = list(_trials(lab))
    if trials:
        yield trials
    techniques = list(_techniques(lab, chosen(trials, merit)))
    yield techniques
    masks = {(r.point, r.seed): r for r in techniques if r.experiment == "magnitude"}
    found = list(_alone(lab, folder, masks))
    if lab.in_full:
        found += _random_with_budgets(lab, folder, techniques)
    yield [*found, *_random_masks(lab, folder, techniques)]


def chosen(trials: list[Run], merit: Callable[[Run], tuple]) -> dict[str, Run]:
    """The best trial of each experiment, the first of equal ones."""
    best: dict[str, Run] = {}
    for run in trials:
        if run.experiment not in best or merit(run) > merit(best[run.experiment]):
            best[run.experiment] = run
    return best


def _trials(lab):
    if not lab.contenders:
        return
    run = _Maker(lab, seed=0)
    for name, contender in CONTENDERS.items():
        at = contender.tuned_at
        for trial in contender.trials:
            settings = contender.flags | contender.at(at) | trial
            made = run(name, at, **settings)
            yield dataclasses.replace(made, trial=trial)


def _techniques(lab, best):
    of_paper = dict.fromkeys(_OF_PAPER, lab.sparsities)
    of_paper["first_dense"] = lab.first_dense
    later = dict.fromkeys(LATER, lab.contenders) if lab.contenders else {}
    for seed in range(lab.seeds):
        run = _Maker(lab, seed)
        yield run("dense", 0.0, technique="dense")
        for name, sparsities in (of_paper | later).items():
            contender = CONTENDERS[name]
            settings = dict(contender.flags)
            if name in best:
                settings |= best[name].trial
            for point in contender.points or sparsities:
                yield run(name, point, **settings, **contender.at(point))
        for weight in lab.kl_weights:
            yield run("vd", weight, technique="variational_dropout", kl_weight=weight)
        for weight in lab.l0_weights:
            yield run("l0", weight, technique="l0_regularization", l0_weight=weight)


def _alone(lab, folder, masks):
    """Networks that magnitude pruning has found, trained with masks that never move."""
    for seed in range(lab.seeds):
        for sparsity in lab.alone:
            source = str(folder / masks[sparsity, seed].configuration.name)
            run = _Maker(
                lab, seed, technique="fixed_mask", load_masks_from=source, alone=True
            )
            yield run("lottery", sparsity, load_weights_from=source)
            yield run("scratch_e", sparsity)
            longer = {
                "train_steps_multiplier": 2,
                "stretch_schedule": lab.stretch_schedule,
            }
            yield run("scratch_b", sparsity, **longer)
            if lab.in_full:
                yield run("scratch_e_augmented", sparsity, init="sparse")
                yield run("scratch_b_augmented", sparsity, init="sparse", **longer)
                yield run("shuffled", sparsity, shuffle_masks="within_layer")


def _random_with_budgets(lab, folder, techniques):
    """Random pruning of each layer as far as a learned technique has gone there."""
    for run in techniques:
        if run.experiment in ("vd", "l0"):
            layers = RunFolder(folder / run.configuration.name).layers
            make = _Maker(lab, run.seed)
            yield make(
                f"random_{run.experiment}",
                run.point,
                technique="random_pruning",
                # The table says it layer by layer.
                sparsity=0.5,
                budget=str(layers),
            )


def _random_masks(lab, folder, techniques):
    """Masks with as many weights in each layer as a technique left, at random places.

    They never change, and are trained from fresh values.
    """
    for run in techniques:
        if run.experiment in _OWN_MASKS:
            make = _Maker(lab, run.seed, alone=True)
            yield make(
                RANDOM_MASKS[run.experiment],
                run.point,
                technique="fixed_mask",
                load_masks_from=str(folder / run.configuration.name),
                shuffle_masks="within_layer",
            )


class _Maker:
    """Makes runs that have a dataset, a seed and some flags in common."""

    def __init__(self, lab, seed, alone=False, **settings):
        self._lab, self._seed = lab, seed
        own = {"seed": seed + SEED_ALONE if alone else seed}
        self._settings = {**lab.settings, **own, **settings}

    def __call__(self, experiment, point, **settings):
        flags = {**self._settings, **settings}
        varied = {"experiment": experiment, "point": f"{point:g}", "seed": self._seed}
        configuration = Configuration(
            self._lab.binary,
            {name: str(value) for name, value in flags.items()},
            {name: str(value) for name, value in varied.items()},
        )
        return Run(experiment, point, self._seed, configuration)

"""Checkpoints of the published runs, which TensorFlow 1 wrote.

Gale, Elsen & Hooker 2019 (arXiv 1902.09574) released one for each of their results.
What a variable is, the end of its name says, whatever scopes are before it:

    weights, kernel, weights_0      a weight, or a shard of one
    mask                            of the pruned weight in its scope
    log_sigma2, log_alpha           of the learned weight in its scope
    weights_0_aux                   either of them, of weights_0
    biases, gamma, beta, …          other parameters
    moving_mean, moving_variance    of batch normalization
    threshold, global_step, …       of training, as is what is named below a variable
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity.engines.conversion import DENSE
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError
from state_of_sparsity.techniques.state import Place

# Magnitude and random pruning leave the same variables.
PRUNING = "pruning"
_LEARNED = {
    "log_sigma2": sos.VariationalDropout,
    "log_alpha": sos.L0Regularization,
}
_MASK, _AUX = "mask", "_aux"
_WEIGHT = re.compile(r"kernel|weights(?:_(\d+))?")
# Kinds of variables by the last part of their names, apart from weights.
_KINDS = {
    **dict.fromkeys((_MASK, *_LEARNED), "extra"),
    **dict.fromkeys(("bias", "biases", "gamma", "beta"), "parameter"),
    **dict.fromkeys(("layer_norm_scale", "layer_norm_bias"), "parameter"),
    **dict.fromkeys(("moving_mean", "moving_variance"), "average"),
    **dict.fromkeys(("threshold", "global_step"), "of training"),
    **dict.fromkeys(("beta1_power", "beta2_power"), "of training"),
}


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """A weight that could be made sparse.

    Attributes:
      name: of its variable; of a weight in shards, their scope with "weights".
      technique: that made it sparse, or "dense".
      kept: boolean array, true where it stays.
      deployed: the weight as it is deployed.
    """

    name: str
    technique: str
    kept: np.ndarray
    deployed: np.ndarray


class TF1Checkpoint:
    """The variables of a checkpoint.

    Args:
      prefix: what the names of its files begin with, such as "model.ckpt-128000".

    Attributes:
      shapes: by name of the variable.

    Raises:
      CheckpointError: if there is none, or none that can be read.
    """

    def __init__(self, prefix: str):
        self.prefix = prefix
        self._reader = _opened(prefix)
        shapes = self._reader.get_variable_to_shape_map()
        # A scope without a name, as of the mask of an embedding, doubles a slash.
        self._stored = {"/".join(filter(None, n.split("/"))): n for n in sorted(shapes)}
        self.shapes = {n: tuple(shapes[stored]) for n, stored in self._stored.items()}
        self._kinds = {name: self._kind(name) for name in self.shapes}

    def _kind(self, name):
        scope, leaf = _parted(name)
        # The slots of an optimizer are named below their variable, and below a scope
        # of the optimizer's own, if it has one.
        if scope in self.shapes or scope.partition("/")[2] in self.shapes:
            return "of training"
        if _WEIGHT.fullmatch(leaf):
            return "weight"
        return "extra" if leaf.endswith(_AUX) else _KINDS.get(leaf, "unknown")

    def names(self, *kinds: str) -> list[str]:
        """Names of the variables of some kinds.

        Args:
          *kinds: "weight", "parameter" (what else is trained and deployed), "average",
            "extra" (masks and what is learned of a weight), "of training", or
            "unknown": the name does not say.
        """
        return [name for name, kind in self._kinds.items() if kind in kinds]

    def read(self, name: str) -> np.ndarray:
        """The value of a variable.

        Raises:
          CheckpointError: if it is not there as a whole.
        """
        try:
            return self._reader.get_tensor(self._stored[name])
        except Exception as error:  # TensorFlow raises anything from IndexError on.
            raise CheckpointError(
                f"{self.prefix} cannot be read at {name}, it may be truncated: "
                f"{str(error).partition(chr(10))[0][:200]}"
            ) from error

    @property
    def step(self) -> int:
        """How many steps the run had been trained.

        Raises:
          CheckpointError: if it does not say.
        """
        names = [name for name in self.shapes if _parted(name)[1] == "global_step"]
        if len(names) != 1:
            raise CheckpointError(
                f"{self.prefix} does not say how long it was trained: it has "
                f"{len(names)} variables global_step, and not one."
            )
        return int(self.read(names[0]))

    def weights(
        self, log_alpha_threshold: float | None = None
    ) -> Iterator[StoredWeight]:
        """Each weight that could be made sparse, in the order of their names.

        Args:
          log_alpha_threshold: from which log alpha on a weight of variational dropout
            is zero; needed for it, and for nothing else.

        Raises:
          CheckpointError: if it has none, or a mask or a learned parameter without a
            weight; or for a threshold that is missing or of no use.
        """
        scopes: dict[str, list[str]] = {}
        for name in self.names("weight"):
            scopes.setdefault(_parted(name)[0], []).append(name)
        if not scopes:
            raise CheckpointError(
                f"{self.prefix} is no checkpoint of the published runs: no variable is "
                f"called …/weights or …/kernel. It has {some_of(list(self.shapes))}."
            )
        technique = self._technique(log_alpha_threshold)
        extras = self._extras(scopes)
        for names in scopes.values():
            names.sort(key=_shard)
            extra = extras[names[0]]
            if extra and _parted(extra)[1] == _MASK:
                yield self._pruned(names, extra)
            else:
                for name in names:
                    yield self._learned(name, extras[name], technique)

    def _technique(self, threshold):
        """That learned what stays, if any did: of `…_aux` the name does not say it."""
        ends = {_parted(name)[1] for name in self.names("extra")}
        found = sorted(ends & _LEARNED.keys())
        if len(found) > 1 or (not found and any(end.endswith(_AUX) for end in ends)):
            raise CheckpointError(
                f"{self.prefix} does not say how it was learned: it has "
                f"{' and '.join(found) or 'neither log_sigma2 nor log_alpha'}."
            )
        if found == ["log_sigma2"]:
            if threshold is None:
                raise CheckpointError(
                    f"{self.prefix} is of variational dropout, where zeros are up to a "
                    "threshold: give --log_alpha_threshold. It is the last number in "
                    "the name of a published Transformer."
                )
            return sos.VariationalDropout(0.0, log_alpha_threshold=threshold)
        if threshold is not None:
            raise CheckpointError(
                f"--log_alpha_threshold={threshold} is for variational dropout, and "
                f"{self.prefix} has no log_sigma2."
            )
        return sos.L0Regularization(0.0) if found else None

    def _extras(self, scopes):
        """By name of a weight, that of its mask or learned parameter, or None."""
        there = set(self.names("extra"))
        extras: dict[str, str | None] = {}
        for scope, names in scopes.items():
            of_scope = [f"{scope}/{end}".lstrip("/") for end in (_MASK, *_LEARNED)]
            for name in names:
                possible = [f"{name}{_AUX}", *of_scope]
                extras[name] = next((x for x in possible if x in there), None)
        lonely = sorted(there - set(extras.values()))
        if lonely:
            raise CheckpointError(
                f"{self.prefix} has no weights that belong to {some_of(lonely)}."
            )
        return extras

    def _pruned(self, names, mask_name):
        """A weight, in shards if it has several names, and its mask."""
        theta = np.concatenate([self.read(name) for name in names])
        name = names[0] if len(names) == 1 else f"{_parted(names[0])[0]}/weights"
        kept = self._read_for(theta, name, mask_name) != 0
        return StoredWeight(name, PRUNING, kept, theta * kept)

    def _learned(self, name, extra_name, technique):
        theta = self.read(name)
        if extra_name is None:
            return StoredWeight(name, DENSE, np.ones(theta.shape, bool), theta)
        (kept,) = technique.state(Place(theta.shape))
        state = {kept: self._read_for(theta, name, extra_name)}
        return StoredWeight(
            name,
            technique.technique_name(),
            np.asarray(technique.keeps(theta, state)),
            np.asarray(technique.deployed_weight(theta, state)),
        )

    def _read_for(self, theta, name, extra_name):
        extra = self.read(extra_name)
        if theta.shape != extra.shape:
            raise CheckpointError(
                f"{self.prefix}: {name} has the shape {theta.shape}, and {extra_name} "
                f"{extra.shape}."
            )
        return extra


def sparsity_report(
    checkpoint: TF1Checkpoint, log_alpha_threshold: float | None = None
) -> sos.SparsityReport:
    """Counts the zeros of a published model as it was deployed.

    Pruned weights are zero where their mask is; those of variational dropout where
    log alpha, unclipped, is not below the threshold; those of L0 regularization where
    the gate without noise is.

    Args:
      checkpoint: of any of the four techniques, or of none.
      log_alpha_threshold: see `TF1Checkpoint.weights`.

    Raises:
      CheckpointError: as `TF1Checkpoint.weights`.
    """
    layers = [
        sos.WeightReport(
            weight.name,
            weight.kept.shape,
            weight.kept.size,
            _zeros(weight),
            weight.technique,
        )
        for weight in checkpoint.weights(log_alpha_threshold)
    ]
    parameters = checkpoint.names("weight", "parameter")
    return sos.SparsityReport(
        layers, sum(math.prod(checkpoint.shapes[name]) for name in parameters)
    )


def _zeros(weight):
    # A weight that a mask keeps may be zero by chance, and is counted as kept.
    kept = weight.deployed if weight.technique == DENSE else weight.kept
    return int(kept.size - np.count_nonzero(kept))


def some_of(names: list[str], most: int = 10) -> str:
    """The first of some names, and how many others there are."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} more" if others > 0 else "")


def _opened(prefix):
    if not pathlib.Path(f"{prefix}.index").is_file():
        raise CheckpointError(
            f"There is no checkpoint {prefix}: it would have a file {prefix}.index. "
            "Give what the names of its files begin with, such as model.ckpt-128000."
        )
    try:
        return tf.train.load_checkpoint(prefix)
    except (tf.errors.OpError, ValueError) as error:
        raise CheckpointError(
            f"{prefix} cannot be read as a checkpoint: {str(error)[:200]}"
        ) from error


def _parted(name):
    """The scope of a variable, and the last part of its name."""
    scope, _, last = name.rpartition("/")
    return scope, last


def _shard(name):
    return int(_WEIGHT.fullmatch(_parted(name)[1]).group(1) or 0)

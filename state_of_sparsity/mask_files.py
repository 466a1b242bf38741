"""Masks in files, in NumPy's format; and masks at random of the same layers."""

import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from state_of_sparsity import atomic
from state_of_sparsity.checks import check_path

_VERSION = 1


def save_masks(path, masks: Mapping[str, np.ndarray]) -> None:
    """Writes masks to a file, a bit for each weight and compressed.

    Args:
      path: of the file, which ends in `.npz`. What is there is replaced.
      masks: boolean arrays by weight name, as of `sos.weight_masks`.

    Raises:
      ValueError: for another ending.
    """
    path = _checked(path)
    arrays = {"version": np.asarray(_VERSION)}
    for name, mask in masks.items():
        arrays[f"bits:{name}"] = np.packbits(np.asarray(mask, bool))
        arrays[f"shape:{name}"] = np.asarray(mask.shape, np.int64)
    with atomic.replacing(path) as written:
        np.savez_compressed(written, **arrays)


def load_masks(path) -> dict[str, np.ndarray]:
    """The masks that `save_masks` wrote.

    Raises:
      FileNotFoundError, ValueError: if there is no such file, or it is another one.
    """
    path = _checked(path)
    try:
        with np.load(path) as arrays:
            version = int(arrays["version"])
            if version != _VERSION:
                raise ValueError(
                    f"it is of version {version}, and this state-of-sparsity reads "
                    f"version {_VERSION}"
                )
            shapes = {
                key.removeprefix("shape:"): tuple(arrays[key])
                for key in arrays
                if key.startswith("shape:")
            }
            if not shapes:
                raise KeyError("no masks in it")
            return {
                name: np.unpackbits(arrays[f"bits:{name}"], count=int(np.prod(shape)))
                .astype(bool)
                .reshape(shape)
                for name, shape in shapes.items()
            }
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} is no file that sos.save_masks wrote: {error}"
        ) from error


def shuffle_masks(
    masks: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, np.ndarray]:
    """Masks that keep as many weights of each tensor, at random places.

    Training with them tells whether a mask matters or only how much of each layer it
    keeps (Frankle et al. 2021, arXiv 2009.08576).

    Args:
      masks: boolean arrays by weight name, as of `sos.weight_masks`.
      seed: of the places, which differ from name to name.
    """
    return {
        name: np.random.default_rng([seed, zlib.crc32(name.encode())])
        .permutation(mask.ravel())
        .reshape(mask.shape)
        for name, mask in masks.items()
    }


def _checked(path):
    path = check_path(path)
    if path.suffix != ".npz":
        raise ValueError(f"The path has to end in '.npz'. Received: {str(path)!r}")
    return path

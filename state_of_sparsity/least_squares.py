"""Least squares of linear maps: their damped Gram matrix, weights anew on a mask."""

import numpy as np

# Of conjugate gradients: by how much the error falls, and after how many steps at most.
_TOLERANCE, _STEPS = 1e-6, 200


def damped(gram: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray, float]:
    """A Gram matrix plus `damping * mean(diag)` on its diagonal, positive definite.

    Where that does not do, ten times as much is added, as often as it takes. An input
    that is always 0 counts as one that has nothing to do with the others.

    Args:
      gram: finite.
      damping: positive.

    Returns:
      The matrix `R Rᵀ`, its upper triangular factor R, and the damping that it took.
    """
    diagonal = np.diag(gram)
    mean = diagonal.mean() or 1.0
    diagonal = np.where(diagonal > 0, diagonal, mean)
    result = gram.copy()
    while True:
        np.fill_diagonal(result, diagonal + damping * mean)
        try:
            # The lower factor from the last input on.
            factor = np.linalg.cholesky(result[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            damping *= 10
        else:
            return result, factor, damping


def refitted(
    dense: np.ndarray, pruned: np.ndarray, mask: np.ndarray, gram: np.ndarray
) -> np.ndarray:
    """The weights on a mask whose outputs are closest to those of the dense ones.

    They minimize `tr((V - W)ᵀ H (V - W))` over V that is 0 off the mask: for each
    output a system of its own, solved for all at once by conjugate gradients that are
    masked after each product with H, with its diagonal as preconditioner (Meng et al.
    2024, arXiv 2406.07831, section 3.3).

    Args:
      dense: W, inputs x outputs.
      pruned: where V starts from.
      mask: boolean, true where a weight stays.
      gram: H, positive definite.
    """
    scale = np.diag(gram)[:, None]
    solution = pruned * mask
    residual = (gram @ (dense - solution)) * mask
    towards = residual / scale
    energy = first = (residual * towards).sum(0)
    for _ in range(_STEPS):
        if (energy <= _TOLERANCE**2 * first).all():
            break
        product = (gram @ towards) * mask
        # Outputs that are solved have nothing to add.
        length = _ratio(energy, (towards * product).sum(0))
        solution += length * towards
        residual -= length * product
        preconditioned = residual / scale
        before, energy = energy, (residual * preconditioned).sum(0)
        towards = preconditioned + _ratio(energy, before) * towards
    return solution


def _ratio(numerator, denominator):
    return np.divide(
        numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0
    )

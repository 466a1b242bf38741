"""Quantization of a matrix by GPTQ that keeps its zeros."""

import numpy as np
from keras import ops


def masked_gptq(
    weights_transpose,
    inv_hessian,
    *,
    blocksize=128,
    group_size=-1,
    activation_order=False,
    order_metric=None,
    compute_scale_zero,
):
    """Rounds a matrix column by column, and corrects what is left for the errors.

    With `H⁻¹ = UᵀU`, `U` upper triangular, for each input `j` in turn:

        q_j = round(w_j) where the weight is kept, 0 where it is zero from the start
        w_k -= (w_j - q_j) / U_jj * U_jk        for all k > j

    What the correction adds to a weight that is zero is taken from it again, and its
    error passed on: GPTQ (Frantar et al. 2022, arXiv 2210.17323) and SparseGPT (Frantar
    & Alistarh 2023, arXiv 2301.00774) in one pass. Arguments and results are those of
    Keras's function, which knows no mask, and takes `H⁻¹` where `U` belongs.

    Args:
      weights_transpose: `W`, outputs by inputs.
      inv_hessian: `H⁻¹` of the inputs, damped.
      blocksize: after how many inputs all later ones are corrected.
      group_size: of how many inputs an output has a scale; -1 is all.
      activation_order: whether the inputs with the largest `order_metric` come first.
      order_metric: of each input.
      compute_scale_zero: gives scale, zero point and largest step of a group.

    Returns:
      `W` in steps from the zero point, scales and zero points of outputs by groups, and
      the group of each input.

    Raises:
      ValueError: if the Hessian is not positive definite in spite of the damping.
    """
    weights = np.array(ops.convert_to_numpy(weights_transpose), "float32")
    inverse = ops.convert_to_numpy(inv_hessian).astype("float64")
    length = weights.shape[1]
    order = np.arange(length)
    if activation_order:
        order = np.argsort(-ops.convert_to_numpy(order_metric), kind="stable")
    weights, inverse = weights[:, order], inverse[np.ix_(order, order)]
    kept, upper = weights != 0, _upper_factor(inverse).astype("float32")
    steps = np.zeros(weights.shape, "int32")
    groups = np.arange(length) // (length if group_size == -1 else group_size)
    scales, zeros = [], []
    for begin in range(0, length, blocksize):
        end = min(begin + blocksize, length)
        errors = np.zeros((len(weights), end - begin), "float32")
        for j in range(begin, end):
            if groups[j] == len(scales):
                group = np.where(kept, weights, 0)[:, groups == groups[j]]
                scale, zero, most = _parameters(group, compute_scale_zero)
                scales.append(scale)
                zeros.append(zero)
                scale, zero = scale[:, 0], zero[:, 0].astype("float32")
            step = np.clip(np.round(weights[:, j] / scale + zero), 0, most)
            step = np.where(kept[:, j], step, zero)
            error = (weights[:, j] - scale * (step - zero)) / upper[j, j]
            weights[:, j + 1 : end] -= np.outer(error, upper[j, j + 1 : end])
            steps[:, j], errors[:, j - begin] = step, error
        weights[:, end:] -= errors @ upper[begin:end, end:]
    back = np.argsort(order)
    results = (
        steps[:, back],
        np.concatenate(scales, axis=1),
        np.concatenate(zeros, axis=1),
        groups[back].astype("float32"),
    )
    return tuple(map(ops.convert_to_tensor, results))


def _parameters(group, compute_scale_zero):
    """Scale, zero point and largest step of a group, which reach all of its weights.

    For weights of one sign, Keras 3.15 has a negative zero point, as an unsigned
    number; or, where positive ones are to be symmetric, one that cuts half of them off.
    """

    def computed():
        given = compute_scale_zero(ops.convert_to_tensor(group))
        return [ops.convert_to_numpy(value) for value in given]

    outside = (group.min(axis=1) > 0) | (group.max(axis=1) < 0)
    nearest = np.abs(group).argmin(axis=1)
    group[outside, nearest[outside]] = 0.0
    scale, zero, most = computed()
    largest = group.max(axis=1)
    # By more than what is rounded.
    is_cut = largest / scale[:, 0] + zero[:, 0].astype("float32") > most + 0.51
    if is_cut.any():
        group[is_cut, 0] = -largest[is_cut]
        scale, zero, most = computed()
    return scale, zero, most


def _upper_factor(inverse):
    try:
        return np.linalg.cholesky((inverse + inverse.T) / 2).T
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "The Hessian of a layer's inputs is not positive definite. Pass more "
            "samples, or a larger hessian_damping of GPTQConfig."
        ) from error

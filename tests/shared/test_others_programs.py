"""What others' programs did, and what no program may do without a word."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, sos

PAIRS = sos.MagnitudePruning(0.5, 1, 2, 1, sparsity_m_by_n=(2, 4))


def colors(channels):
    """A convolution on some channels, and one on 4."""
    return keras.Sequential(
        [
            keras.Input((3, 3, channels)),
            keras.layers.Conv2D(4, 2, name="first"),
            keras.layers.Conv2D(4, 2, name="second"),
        ]
    )


@pytest.mark.any_backend
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_m_of_n_cannot_mask_stays_dense_as_planned(channels):
    model = colors(channels)
    message = f"first/kernel of shape .*: 4 does not divide its {channels} input"
    with pytest.warns(UserWarning, match=message) as told:
        planned = sos.planned_sparsities(model, PAIRS)
    assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match=message):
        sparse = sos.sparsify(model, PAIRS)
    compiled(sparse)
    assert planned == {"first": 0, "second": 0.5}
    fit(sparse, np.ones((12, 3, 3, channels)), np.ones((12, 1, 1, 4)))
    report = sos.sparsity_report(sparse)
    assert [x.sparsity for x in report.layers] == list(planned.values())
    assert [x.technique for x in report.layers] == ["dense", "magnitude_pruning"]
    flops = sos.count_training_flops(sparse, steps=2).layers
    assert flops["first/kernel"].sparse == flops["first/kernel"].dense
    assert flops["second/kernel"].sparse < flops["second/kernel"].dense


@pytest.mark.any_backend
def test_what_m_of_n_cannot_mask_is_refused_by_name():
    message = r"first/kernel of shape \(2, 2, 3, 4\): 4 does not divide .*`overrides`"
    with pytest.raises(ValueError, match=message):
        sos.sparsify(colors(3), PAIRS, {"first": PAIRS})
    with pytest.raises(ValueError, match=r"Nothing to sparsify.*first/kernel of shape"):
        sos.sparsify(colors(3), PAIRS, {"second": None})

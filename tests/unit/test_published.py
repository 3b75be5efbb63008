"""The curves that were published with AM-SincNet."""

import json

import numpy as np
import pytest

from amsincnet_sb.plots import published_curves


def test_published_curves():
    curves = published_curves()
    margins = [m / 100 for m in range(5, 100, 5)]
    assert list(curves) == [None, *margins]
    for curve in curves.values():
        assert len({len(column) for column in curve}) == 1
        assert (np.diff(curve.epoch) == 8).all() and curve.epoch[0] == 0
    # The figures that the paper and its logs are known by.
    late = [
        (curves[m].frame_error[i], curves[m].sentence_error[i])
        for m in margins
        for i in np.flatnonzero(
            (curves[m].epoch >= 296) & (curves[m].epoch <= 352)
        )
    ]
    frame, sentence = np.mean(late, axis=0)
    assert frame == pytest.approx(28.0, abs=0.05)
    assert sentence == pytest.approx(0.43, abs=0.005)
    for margin in margins:
        last = curves[margin].train_loss[-1]
        assert 3.50 < last - 30 * margin < 3.51
    json.dumps([float(x) for x in curves[None].frame_error])

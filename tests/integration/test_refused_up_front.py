"""Options that cannot be, alone or together: nothing is prepared for them."""

import pytest

from amsincnet_sb.lobes.heads import LOSSES
from amsincnet_sb.training.permitted import PERMITTED


@pytest.mark.parametrize(
    "options, words",
    [
        ({"loss": "sotfmax"}, "loss is 'sotfmax' but must be am or aam or"),
        ({"loss": "softmax", "subcentres": 2}, "the loss softmax is not of"),
        ({"loss": "released", "subcentres": 64}, "leave it at 1"),
        ({"embedding_size": 9}, "9 but the last of fc_neurons is 8; make"),
    ],
)
def test_before_the_corpus_is_prepared(refused, tmp_path, options, words):
    assert words in refused("sinc_tdnn.yaml", **options)
    assert not (tmp_path / "results").exists()


def test_a_loss_is_permitted_by_its_name():
    assert PERMITTED["loss"].values == tuple(LOSSES)
    assert "softmax" in LOSSES and "am" in LOSSES

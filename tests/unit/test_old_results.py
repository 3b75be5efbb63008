"""Results folders that version 0.1.0 made stay readable.

`fixtures/results_0.1.0` was made at commit 02752ab on the generated corpus;
`expected.json` holds what that version answered.
"""

import json
import pydoc
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.inference import EncoderClassifier

from amsincnet_sb.inference.identifier import SpeakerIdentifier

TESTS = Path(__file__).parents[1]
OLD = TESTS / "fixtures" / "results_0.1.0"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
class TestOldResults:
    """A folder of the recommended recipe and one of the authors' system."""

    def test_answers_as_it_did(self, name):
        """The same candidates and the same d-vector."""
        model = SpeakerIdentifier.from_results(OLD / name)
        # As that version took windows; today's default is half as many.
        model.hop = model.embedding_model.window // 4
        model.use_float32()
        path = TESTS / "samples" / "TIMIT" / EXPECTED[name]["file"]
        for now, then in zip(
            model.identify(path, top_k=5), EXPECTED[name]["candidates"]
        ):
            assert now.speaker == then["speaker"]
            assert now.score == pytest.approx(then["score"], abs=1e-4)
        np.testing.assert_allclose(
            np.ravel(model.embed(path)), EXPECTED[name]["embedding"], atol=1e-4
        )

    def test_loads_with_speechbrain(self, name, tmp_path):
        """The module paths in its yaml are still found."""
        source = str(OLD / name / "pretrained")
        model = EncoderClassifier.from_hparams(source, savedir=str(tmp_path))
        embeddings = model.encode_batch(torch.randn(1, 1600))
        assert embeddings.shape == (1, 1, len(EXPECTED[name]["embedding"]))


def test_old_module_paths():
    """Classes are found under the paths that older yaml files name."""
    for path in (
        "amsincnet_sb.nnet.augment.RandomEqualizer",
        "amsincnet_sb.utils.checkpoints.AtomicCheckpointer",
        "amsincnet_sb.nnet.warmup.MarginWarmup",
        "amsincnet_sb.nnet.optimizers.RMSprop",
    ):
        assert pydoc.locate(path) is not None

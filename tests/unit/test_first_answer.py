"""What passes until the first answer of a trained model."""

import subprocess
import sys

import pytest

from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet

ASK = """
import sys, torch
from amsincnet_sb.inference.identifier import SpeakerIdentifier
SpeakerIdentifier.from_results(sys.argv[1]).identify(torch.randn(16000))
print(*{name.split(".")[0] for name in sys.modules})
print(*{name for name in sys.modules if name.startswith("torch._")})
"""


@pytest.mark.parametrize(
    "kind, classify",
    [(SincNet, SoftmaxClassifier), (SincTDNN, CosineClassifier)],
)
def test_torch_is_all_that_is_imported(kind, classify, tmp_path):
    """Its compiler, and what training needs, take seconds each."""
    write_pretrained(tmp_path, kind(fc_neurons=[8]), classify(8, 2), "ab")
    command = [sys.executable, "-c", ASK, tmp_path]
    imported = subprocess.check_output(command, text=True).split()
    slow = {"speechbrain", "scipy", "torchaudio", "sympy", "triton"}
    slow |= {"torch._dynamo", "torch._inductor"}
    assert "torch" in imported and not slow & {*imported}

"""The programs in docs/after_training.md run, and answer as the commands do."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from amsincnet_sb import cli
from amsincnet_sb.inference import SpeakerIdentifier

PAGE = Path(__file__).parents[2] / "docs" / "after_training.md"


def programs():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_programs(finished, corpus, tmp_path, capsys, monkeypatch):
    for package in ("onnxruntime", "onnxscript", "safetensors"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    shutil.copy(min(corpus.glob("TRAIN/*/*/SI*.WAV")), "a.wav")
    for output in ("model.onnx", "folder"):
        assert cli.main(["export", str(finished), output]) == 0
    capsys.readouterr()
    with_onnx, with_safetensors = programs()
    exec(with_onnx, {})
    assert cli.main(["identify", str(finished), "a.wav", "--top", "1"]) == 0
    name, answer = capsys.readouterr().out.splitlines()
    (best,) = json.loads(answer)["candidates"]
    assert name == best["speaker"]
    made = {}
    exec(with_safetensors, made)
    who = SpeakerIdentifier.from_results(finished)
    for key, value in who.embedding_model.state_dict().items():
        assert torch.equal(made["net"].state_dict()[key], value)


def test_commands_are_commands():
    text = PAGE.read_text().replace("\\\n", " ")
    commands = re.findall(r"^amsincnet (.+)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert cli._parser().parse_args(cli.one_spelling(command.split())).run

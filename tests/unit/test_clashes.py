"""Versions that do not fit each other are one sentence, with its command."""

import subprocess
import sys
from importlib import metadata

import pytest
from recipe_process import RECIPE, environment

from amsincnet_sb.utils import clashes
from amsincnet_sb.utils.errors import exit_on_input_error

BOUNDS = ["torch<2.15,>=2.6", "torchaudio<2.11.1,>=2.6", "ruamel.yaml<0.19"]
BOUNDS += ["onnx==999; extra == 'export'"]


def raised(error, module):
    """The error, raised in code of a module."""
    try:
        exec("raise error", {"__name__": module, "error": error})
    except Exception as caught:
        return caught


LOADING = raised(OSError("undefined symbol"), "torchaudio._extension.utils")
OTHER_CUDA = raised(RuntimeError("CUDA"), "torchaudio._extension.utils")
INDEX = " --index-url https://download.pytorch.org/whl/"
TORCHAUDIO = "pip install --force-reinstall --no-deps torchaudio=="


@pytest.mark.parametrize(
    ("error", "torch", "torchaudio", "ruamel", "told"),
    [
        (LOADING, "2.7.1", "2.8.0", "0.18.6", f"`{TORCHAUDIO}2.7.1`."),
        (OTHER_CUDA, "2.7.0+cpu", "2.7.0", "0.18", f"2.7.0{INDEX}cpu`."),
        (OTHER_CUDA, "2.14.1", "2.9.0", "0.18", f"`{TORCHAUDIO}2.11.0`."),
        (LOADING, "2.11.0", "2.11.1", "0.18", "'torchaudio<2.11.1,>=2.6'`."),
        (LOADING, "2.15.0", "2.11.0", "0.18", "`pip install 'torch<2.15,>=2.6"),
        (LOADING, "2.11.0", None, "0.18", "torchaudio is not installed, but"),
        (AttributeError("max_depth"), "2.11.0", "2.11.0", "0.19.1", "<0.19'`."),
        (AttributeError("max_depth"), "2.11.0", "2.11.0", "0.18", None),
        (OSError("disk"), "2.15.0", "2.11.0", "0.19", None),
        (raised(OSError(), "torchaudio.io"), "2.7.1", "2.8.0", "0.18", None),
    ],
)
def test_the_sentence(monkeypatch, error, torch, torchaudio, ruamel, told):
    versions = {"torch": torch, "torchaudio": torchaudio, "ruamel.yaml": ruamel}

    def version(name):
        """As importlib.metadata has it."""
        if versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: BOUNDS)
    sentence = clashes.clash(error)
    if told is None:
        assert sentence is None
    else:
        assert told in sentence and "\n" not in sentence


def test_it_ends_the_program(monkeypatch, capsys):
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=99"])
    with pytest.raises(SystemExit) as stopped, exit_on_input_error():
        raise ImportError("speechbrain")
    assert stopped.value.code == 2
    assert "torch>=99'`" in capsys.readouterr().err


def test_a_script_says_it_as_well(tmp_path):
    """Before its other imports fail."""
    package = tmp_path / "torchaudio" / "_extension"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("from . import _extension")
    (package / "__init__.py").write_text("raise OSError('undefined symbol')")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    ended = subprocess.run(
        [sys.executable, RECIPE / "train.py"],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "torchaudio" in ended.stderr and "`pip install" in ended.stderr

"""Installs the package `amsincnet_sb` and the command `amsincnet`."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
version = re.search(
    r'__version__ = "(.+)"', (here / "amsincnet_sb/__init__.py").read_text()
).group(1)

# What the commands need of the recipes, through their links.
RECIPES = [
    "TIMIT/*.py",
    "TIMIT/speaker_id/*.py",
    "TIMIT/speaker_id/hparams/*.yaml",
    "LibriSpeech/*.py",
]


class BuildWithRecipes(build_py):
    """Copies the recipes into what is built; a clone has them already."""

    def run(self):
        """Build, and copy; nothing of an earlier build is left."""
        super().run()
        if self.editable_mode:
            return
        copy = Path(self.build_lib, "amsincnet_sb", "recipes")
        shutil.rmtree(copy, ignore_errors=True)
        source = here / "recipes"
        for pattern in RECIPES:
            for path in source.glob(pattern):
                target = copy / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


EXPORT = ["onnx", "onnxruntime", "onnxscript", "safetensors"]
SEGMENTS = ["silero-vad>=6.2"]  # it needs torch alone
RUFF = "ruff==0.12.4"

setup(
    name="amsincnet_sb",
    version=version,
    description="Speaker identification from the raw waveform for SpeechBrain: "
    "SincNet with an additive-margin softmax (AM-SincNet)",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The amsincnet_sb maintainers",
    keywords=[
        "speaker recognition",
        "speaker identification",
        "speaker verification",
        "SincNet",
        "AM-SincNet",
        "additive margin softmax",
        "SpeechBrain",
        "PyTorch",
    ],
    project_urls={
        "AM-SincNet (paper)": "https://arxiv.org/abs/1901.10826",
        "SincNet (paper)": "https://arxiv.org/abs/1808.00158",
        "SpeechBrain": "https://speechbrain.github.io",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithRecipes},
    packages=find_packages(include=["amsincnet_sb", "amsincnet_sb.*"]),
    package_data={"amsincnet_sb": ["data/*.csv", "data/*.npz", "py.typed"]},
    install_requires=[
        # From the lowest to the newest that `make test-versions` has run.
        # torchaudio 2.11.0 serves torch 2.11 to 2.14, and 2.11.1 only later
        # ones: pip, which does not see that, takes a pair that works.
        "speechbrain>=1.1.0,<1.2",
        "torch>=2.6,<2.15",
        "torchaudio>=2.6,<2.11.1",
        "hyperpyyaml>=1.2.3",
        "ruamel.yaml>=0.17.28,<0.19",
        "soundfile>=0.12.1",
        "numpy>=1.26",
        "scipy>=1.11",
        "tqdm>=4.42",
    ],
    extras_require={
        "plots": ["matplotlib"],
        "export": EXPORT,
        "corpora": ["lhotse"],
        "segments": SEGMENTS,
        "cluster": ["distributed"],
        "test": [
            "pytest",
            "pytest-xdist",
            "pytest-timeout",
            "hypothesis",
            "argcomplete",
            "matplotlib",
            "lhotse",
            "distributed",
            "tensorboard",
            *EXPORT,
            *SEGMENTS,
        ],
        "tensorboard": ["tensorboard"],
        "test-slow": ["nbclient", "ipykernel"],
        "types": ["mypy==2.4.1"],
        "lint": [RUFF, "yamllint==1.35.1"],
        # Griffe has ruff format the signatures.
        "docs": [
            "mkdocs-material==9.*",
            "mkdocstrings-python==2.*",
            "latex2mathml==3.*",
            RUFF,
        ],
    },
    entry_points={"console_scripts": ["amsincnet = amsincnet_sb.cli:main"]},
)

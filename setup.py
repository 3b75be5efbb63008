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

# What the commands need of the recipe, through its links.
RECIPE = ["*.py", "speaker_id/*.py", "speaker_id/hparams/*.yaml"]


class BuildWithRecipe(build_py):
    """Copies the recipe into what is built; a clone has it already."""

    def run(self):
        """Build, and copy; nothing of an earlier build is left."""
        super().run()
        if self.editable_mode:
            return
        copy = Path(self.build_lib, "amsincnet_sb", "recipes")
        shutil.rmtree(copy, ignore_errors=True)
        source = here / "recipes" / "TIMIT"
        for pattern in RECIPE:
            for path in source.glob(pattern):
                target = copy / "TIMIT" / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


EXPORT = ["onnx", "onnxruntime", "onnxscript", "safetensors"]

setup(
    name="amsincnet_sb",
    version=version,
    description="AM-SincNet speaker identification for SpeechBrain",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The amsincnet_sb maintainers",
    keywords="speaker recognition, SincNet, additive margin, SpeechBrain",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithRecipe},
    packages=find_packages(include=["amsincnet_sb", "amsincnet_sb.*"]),
    package_data={"amsincnet_sb": ["data/*.csv"]},
    install_requires=[
        "speechbrain>=1.1",
        "torch>=2.6",
        "torchaudio>=2.6",
        "hyperpyyaml",
        "soundfile",
        "numpy",
        "scipy",
        "tqdm",
    ],
    extras_require={
        "plots": ["matplotlib"],
        "export": EXPORT,
        "corpora": ["lhotse"],
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "matplotlib",
            "lhotse",
            *EXPORT,
        ],
        "lint": ["ruff==0.12.4", "yamllint==1.35.1"],
    },
    entry_points={"console_scripts": ["amsincnet = amsincnet_sb.cli:main"]},
)

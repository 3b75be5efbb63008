"""Versions of installed packages that do not fit each other, in a sentence.

pip installs torchaudio beside any torch, and packages that other commands
install later may leave the bounds of this one.
"""

import traceback
from importlib import metadata

__all__ = ["clash"]


def clash(error):
    """The sentence for an error that a clash of versions explains, or None.

    Example
    -------
    >>> clash(ValueError("no clash")) is None
    True
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = (frame.f_globals.get("__name__", "") for frame in frames)
    kinds, loading = (ImportError, AttributeError), False
    if any(name.startswith("torchaudio._extension") for name in names):
        kinds, loading = (*kinds, OSError, RuntimeError), True
    if not isinstance(error, kinds):
        return None
    found = next(_out_of_bounds(), None)
    return found or (_other_build() if loading else None)


def _out_of_bounds():
    """A sentence for each package that is not as setup.py asks for it."""
    from packaging.requirements import Requirement  # speechbrain needs it

    try:
        texts = metadata.requires("amsincnet_sb") or ()
    except metadata.PackageNotFoundError:  # a folder on the path
        return
    for needed in map(Requirement, texts):
        if needed.marker is not None:  # an extra
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            have = "is not installed"
        else:
            if needed.specifier.contains(version, prereleases=True):
                continue
            have = f"is installed as {version}"
        yield (
            f"{needed.name} {have}, but amsincnet_sb needs {needed}; type "
            f"`pip install '{needed}'`."
        )


def _other_build():
    """The sentence for a torchaudio that was built for another torch."""
    torch, torchaudio = map(metadata.version, ("torch", "torchaudio"))
    release, _, build = torch.partition("+")
    parts = tuple(map(int, release.split(".")[:2]))
    # From 2.11.0 on one torchaudio serves later torches too (docs/install.md).
    fitting = release if parts < (2, 11) else "2.11.0"
    command = f"pip install --force-reinstall --no-deps torchaudio=={fitting}"
    if build:
        command += f" --index-url https://download.pytorch.org/whl/{build}"
    return (
        f"torchaudio {torchaudio} was not built for torch {torch}; type "
        f"`{command}`."
    )

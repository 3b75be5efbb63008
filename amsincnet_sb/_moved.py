"""Module paths of version 0.1.0, which stand in older results folders.

The yaml of a ``pretrained/`` folder and of a finished run names classes by
path; an old path is answered with the module that holds the class today.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__all__ = ["install"]

MOVED = {
    "nnet.augment": "amsincnet_sb.nnet.augmentation",
    "nnet.warmup": "amsincnet_sb.nnet.losses",
    "utils.checkpoints": "amsincnet_sb.training.checkpoints",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports an old module's new name."""

    def find_spec(self, fullname, path=None, target=None):
        """Answer for an old path, and for no other."""
        package, _, name = fullname.partition(".")
        if package == __package__ and name in MOVED:
            return importlib.util.spec_from_loader(fullname, self)
        return None

    def create_module(self, spec):
        """The module under its new path."""
        module = importlib.import_module(MOVED[spec.name.partition(".")[2]])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        """Only put its own spec back: it has been executed already."""
        module.__spec__ = module.__spec__.loader_state


def install():
    """Answer imports of old paths; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())

"""Imports between the package's folders point down, and none in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "amsincnet_sb"
# From the top floor down; files beside the folders stand above them.
FLOORS = [
    "inference",
    "training",
    "dataio",
    "lobes",
    "kernels",
    "nnet",
    "utils",
]


def imports():
    """Module -> the modules of the package that it imports, anywhere."""
    found = {}
    names = {
        path: ".".join(
            path.relative_to(PACKAGE.parent).with_suffix("").parts
        ).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    }
    modules = set(names.values())
    for path, name in names.items():
        needed = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    needed |= {full if full in modules else node.module}
        needed &= modules - {name}
    return found


def floor(module):
    """Number of a module's floor; 0 is the top."""
    parts = module.split(".")
    if len(parts) < 2 or parts[1] not in FLOORS:
        return 0
    return FLOORS.index(parts[1]) + 1


def test_no_import_points_up():
    up = [
        f"{module} -> {needed}"
        for module, all_needed in imports().items()
        for needed in all_needed
        if floor(needed) < floor(module)
        and module != "amsincnet_sb"  # the public names, lazily
    ]
    assert not up


def test_no_circle():
    TopologicalSorter(imports()).prepare()


def test_nnet_needs_torch_and_errors_alone():
    for module, needed in imports().items():
        if floor(module) == floor("amsincnet_sb.nnet"):
            outside = {n for n in needed if floor(n) != floor(module)}
            assert outside <= {"amsincnet_sb.utils.errors"}, module

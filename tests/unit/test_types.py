"""Every public name tells its types, to people and to type checkers."""

import inspect
from pathlib import Path

import pytest

import amsincnet_sb


def functions(value):
    """A public function, or a class' own public methods."""
    if not isinstance(value, type):
        return [value]
    ours = [c for c in value.__mro__ if c.__module__.startswith("amsincnet_sb")]
    found = {k: v for c in reversed(ours) for k, v in vars(c).items()}
    plain = (getattr(v, "__func__", v) for k, v in found.items() if k[0] != "_")
    methods = [*filter(inspect.isfunction, plain), found["__init__"]]
    return [*methods, *(p.fget for p in found.values() if type(p) is property)]


@pytest.mark.parametrize("name", amsincnet_sb._PUBLIC)
def test_hints(name):
    for function in functions(getattr(amsincnet_sb, name)):
        if function.__qualname__ == "SpeakerIdentifier.identify":
            continue  # its overloads have them
        signature = inspect.signature(function)
        hinted = [
            *(p.annotation for k, p in signature.parameters.items()),
            signature.return_annotation,
        ]
        implied = list(signature.parameters)[:1] in (["self"], ["cls"])
        assert inspect.Signature.empty not in hinted[implied:], function


def test_type_checkers_know_the_same_names():
    package = Path(amsincnet_sb.__file__).parent
    assert (package / "py.typed").exists()
    text = (package / "__init__.py").read_text()
    start = text.index("if TYPE_CHECKING")
    block = text[start : text.index("__version__", start)]
    for name, module in amsincnet_sb._PUBLIC.items():
        line = next(x for x in block.splitlines() if f" {module} import" in x)
        assert name in line.partition(" import ")[2].split(", ")

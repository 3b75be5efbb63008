"""What the files around the package say of each other."""

import ast
import re
from pathlib import Path

import amsincnet_sb

ROOT = Path(__file__).parents[2]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_of_the_linters():
    pinned = dict(re.findall(r'"(ruff|yamllint)==([\d.]+)"', text("setup.py")))
    hooks = text(".pre-commit-config.yaml")
    used = re.findall(r"/(ruff|yamllint)\S*\n +rev: v(\S+)", hooks)
    assert dict(used) == {
        "ruff": pinned["ruff"],
        "yamllint": pinned["yamllint"],
    }


def test_the_version_to_cite():
    assert f"\nversion: {amsincnet_sb.__version__}\n" in text("CITATION.cff")


def test_every_make_target_is_told():
    makefile = text("Makefile").replace("\\\n", " ")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    told = re.findall(r"^    make (\S+)", text("CONTRIBUTING.md"), re.M)
    assert sorted(told) == sorted(targets)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(text("README.md").splitlines()) <= 150
    for page in ("README.md", "SECURITY.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([\w./-]+)", text(page)):
            assert (ROOT / link).exists() or link.startswith("http"), link


def test_the_site_knows_every_folder():
    tree = ast.parse(text("docs/site_files.py"))
    areas = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "AREAS"
    )
    folders = (ROOT / "amsincnet_sb").glob("*/__init__.py")
    assert sorted(areas) == sorted(path.parent.name for path in folders)

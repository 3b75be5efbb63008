"""SpeechBrain's own checks, unmodified, on this repository.

They need a SpeechBrain checkout, whose recipes and checks are not in its pip
package, and some minutes:

> SPEECHBRAIN_CHECKOUT=/path/to/speechbrain make speechbrain-checks

Rows in tests/recipes are about our recipes. Those in
tests/recipes_of_speechbrain are about our hyperparameter files for
SpeechBrain's VoxCeleb scripts, which are copied beside them.
"""

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from amsincnet_sb.training.hparams import place_overrides

ROOT = Path(__file__).parents[2]
CHECKOUT = os.environ.get("SPEECHBRAIN_CHECKOUT")

needs_checkout = pytest.mark.skipif(
    not CHECKOUT, reason="SPEECHBRAIN_CHECKOUT names no SpeechBrain checkout"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Output of a command, whose `python` finds this package."""
    folder = tmp_path_factory.mktemp("bin")
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'PYTHONPATH="$PYTHONPATH:{ROOT}" exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": CHECKOUT,
        "OMP_NUM_THREADS": "1",
    }
    to_one = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

    def run_in(cwd, *command):
        done = subprocess.run(
            command, cwd=cwd, env=environment, text=True, **to_one
        )
        assert not done.returncode, done.stdout[-5000:]
        return done.stdout

    return run_in


@pytest.fixture(scope="module", params=["ours", "of_speechbrain"])
def tree(request, tmp_path_factory):
    """A copy of this repository, in which the checks may write."""
    folder = tmp_path_factory.mktemp("checks") / "repository"
    for name in ("recipes", "hparams", "tests/samples"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    rows = "recipes"
    if request.param == "of_speechbrain":
        rows = "recipes_of_speechbrain"
        for script in Path(CHECKOUT, "recipes/VoxCeleb").rglob("*.py"):
            shutil.copy(script, folder / script.relative_to(CHECKOUT))
    shutil.copytree(ROOT / "tests" / rows, folder / "tests" / "recipes")
    return folder


@needs_checkout
def test_consistency(run, tree):
    checks = Path(CHECKOUT, "tests", "consistency")
    said = run(
        tree,
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("-c", f"{CHECKOUT}/pytest.ini", f"--rootdir={CHECKOUT}"),
        *(checks / f"test_{it}.py" for it in ("recipe", "yaml")),
    )
    assert "5 passed" in said, said


# It overrides data_folder and output_folder at the top of a file, where one
# that includes another has neither and HyperPyYAML refuses them. SpeechBrain's
# CI passes over files of its own by the same list. test_configurations.py loads
# all of ours.
INCLUDING = [
    f"recipes/TIMIT/speaker_id/hparams/{file.name}"
    for file in (ROOT / "hparams").glob("*.yaml")
    if "!include:" in file.read_text()
]
CALLS = [
    f"recipe_tests.load_yaml_test(avoid_list={INCLUDING})",
    "recipe_tests.run_recipe_tests()",
    f"check_docstrings.check_docstrings({str(ROOT)!r}, "
    "['/amsincnet_sb/', '/recipes/'])",
]


@needs_checkout
@pytest.mark.parametrize("call", CALLS, ids=["load", "run", "docstrings"])
def test_tools_answer_true(run, tree, call):
    code = f"from tests.utils import {call.split('.')[0]}; print({call})"
    said = run(tree, "python", "-c", code)
    errors = "".join(
        file.read_text()[-2000:]
        for file in tree.glob("tests/tmp/*/stderr.txt")
        if not (file.parent / ".passed").exists()
    )
    assert said.strip().split("\n")[-1] == "True", said + errors


# Without a checkout -----------------------------------------------------------


def read_rows(folder):
    (file,) = (ROOT / "tests" / folder).glob("*.csv")
    with open(file, newline="") as lines:
        rows = list(csv.DictReader(lines, skipinitialspace=True))
    assert all(None not in {*row, *row.values()} for row in rows)
    return rows


OURS = read_rows("recipes")
OF_SPEECHBRAIN = read_rows("recipes_of_speechbrain")
each_set = pytest.mark.parametrize(
    "rows", [OURS, OF_SPEECHBRAIN], ids=["ours", "of_speechbrain"]
)


@each_set
def test_every_hyperparameter_file_has_a_row(rows):
    there = (ROOT / "recipes" / rows[0]["Dataset"]).glob("*/hparams/*.yaml")
    there = sorted(str(file.relative_to(ROOT)) for file in there)
    assert sorted(row["Hparam_file"] for row in rows) == there


@each_set
def test_rows_name_files_flags_and_checks(rows):
    wanted = ["Hparam_file", "Readme_file"]
    if rows is OURS:
        wanted += ["Script_file", "Data_prep_file"]
    for row in rows:
        for key in wanted:
            assert (ROOT / row[key]).is_file(), row[key]
        assert "--data_folder=tests/samples" in row["test_debug_flags"]
        assert "file_exists=[" in row["test_debug_checks"]
        # A key that is renamed must be renamed in its rows, too.
        keys = re.findall(r"--(\w+)=", row["test_debug_flags"])
        place_overrides(str(ROOT / row["Hparam_file"]), dict.fromkeys(keys, 0))
        if rows is OF_SPEECHBRAIN:
            readme = (ROOT / row["Readme_file"]).read_text()
            assert Path(row["Hparam_file"]).name in readme


def test_keys_of_our_files_are_in_our_script():
    """The question of SpeechBrain's consistency check."""
    for row in OURS:
        text = (ROOT / row["Hparam_file"]).read_text()
        script = (ROOT / row["Script_file"]).read_text()
        for key in re.findall(r"^(\w+):(?! !apply)", text, re.MULTILINE):
            if f"<{key}>" in text or key in ("max_grad_norm", "precision"):
                continue  # used in the file, or an option of every Brain
            used = rf'\["{key}"\]|hparams\.{key}\b|modules\.{key}\b'
            used += rf'|attr\(self\.hparams, "{key}"'
            assert re.search(used, script), f"{row['Hparam_file']}: {key}"


def test_everything_has_a_docstring():
    """Functions within functions, too: SpeechBrain's check reads lines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    for folder in ("amsincnet_sb", "recipes"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                name = getattr(node, "name", "the file")
                if isinstance(node, kinds) and not name.startswith("_"):
                    assert ast.get_docstring(node), f"{file}: {name}"

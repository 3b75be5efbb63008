"""A sweep over a script that stands for train.py."""

import csv
import json
import re
from pathlib import Path

import pytest

from amsincnet_sb import cli
from amsincnet_sb.training.executors import open_executor
from amsincnet_sb.training.recipe_files import recipe_module
from amsincnet_sb.utils.errors import InputError

sweep_script = recipe_module("TIMIT/speaker_id/sweep.py")
Sweep = sweep_script.Sweep

# Errors that say what the run was given; margin 0.9 fails the first time.
SCRIPT = """
import json, os, sys
from pathlib import Path
options = dict(a[2:].split("=", 1) for a in sys.argv[2:])
folder = Path(options["output_folder"])
folder.mkdir(parents=True, exist_ok=True)
with open(folder.parents[2] / "calls.txt", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
margin, seed = float(options.get("margin", 0)), int(options["seed"])
failed = folder / "failed"
if margin == 0.9 and not failed.exists():
    failed.touch()
    sys.exit("It broke.")
record = {"epoch": 1, "step": 1, "seconds": 1.0, "loss": 1.0}
errors = {"frame_error": 100 * margin, "sentence_error": seed - 1233.0}
with open(folder / "metrics.jsonl", "w") as file:
    for split in ("valid", "test"):
        worse = {k: v + 50 * (split == "valid") for k, v in errors.items()}
        file.write(json.dumps({**record, "split": split, **worse}) + "\\n")
(folder / "pretrained").mkdir()
(folder / "pretrained" / "config.json").write_text("{}")
"""


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "recipe"
    (folder / "hparams").mkdir(parents=True)
    (folder / "train.py").write_text(SCRIPT)
    for name, margin in (("am", 0.3), ("old", 0.35)):
        (folder / "hparams" / f"{name}.yaml").write_text(
            f"data_folder: !PLACEHOLDER\nmargin: {margin}\n"
        )
    (folder / "hparams" / "over.yaml").write_text(
        f"margin: 0.15\nrecipe: !include:{folder}/hparams/old.yaml\n"
        "    margin: !ref <margin>\n"
    )
    (folder / "hparams" / "plain.yaml").write_text("data_folder: a\n")
    return folder / "hparams"


def calls(folder):
    return (folder / "calls.txt").read_text().splitlines()


def test_grid_table_and_continuation(recipe, tmp_path):
    output, lines = tmp_path / "sweep", []
    arguments = (recipe / "am.yaml", output, [0.1, 0.9], 2)
    options = ["--data_folder=/corpus", "--number_of_epochs=2"]
    baselines = [recipe / "over.yaml", recipe / "plain.yaml"]
    sweep = Sweep(*arguments, baselines, options)
    with open_executor("", jobs_per_device=2) as submit:
        failed = sweep.run(submit, lines.append)
    failed = sorted((run.margin, run.seed) for run in failed)
    assert failed == [(0.9, 1234), (0.9, 1235)]
    assert len(lines) == 8 and sum("failed, see" in line for line in lines) == 2
    assert "It broke." in (output / "am" / "m0.9" / "1234.log").read_text()
    assert len(calls(output)) == 8
    assert all("--number_of_epochs=2" in call for call in calls(output))

    # A second time only what failed is done.
    sweep = Sweep(*arguments, baselines, options)
    with open_executor("") as submit:
        assert sweep.run(submit, lines.append) == []
    assert len(calls(output)) == 10
    assert "6 of 8 runs are done already" in lines
    with open(output / "margins.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    got = [(r["recipe"], r["margin"], int(r["seed"])) for r in rows]
    grid = [("am", "0.1"), ("am", "0.9"), ("over", "0.15"), ("plain", "")]
    assert got == [(*each, seed) for each in grid for seed in (1234, 1235)]
    # Those of the test set, not of the validation set.
    assert float(rows[0]["frame_error"]) == pytest.approx(10.0)
    assert [float(r["sentence_error"]) for r in rows[:2]] == [1.0, 2.0]
    table = (output / "margins.md").read_text().splitlines()
    row = "| {} | 2 | {} | 1.500 (1.000-2.000) |"
    assert row.format("am | 0.9", "90.00 (90.00-90.00)") in table
    # A recipe without a margin is not given one.
    assert row.format("plain | none", "0.00 (0.00-0.00)") in table
    of_plain = [call for call in calls(output) if "plain.yaml" in call]
    assert of_plain and not any("--margin" in call for call in of_plain)

    # train.py ends with this file.
    (output / "am" / "m0.1" / "1234" / "pretrained" / "config.json").unlink()
    unfinished = [run for run in sweep.runs if sweep.errors(run) is None]
    assert [(run.margin, run.seed) for run in unfinished] == [(0.1, 1234)]


def test_other_options_need_another_folder(recipe, tmp_path):
    Sweep(recipe / "am.yaml", tmp_path / "s", [0.1], options=["--a=1"])
    with pytest.raises(InputError, match="other options"):
        Sweep(recipe / "am.yaml", tmp_path / "s", [0.1], options=["--a=2"])
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())


def test_a_grid_of_other_keys(recipe, tmp_path, capsys):
    (recipe / "am.yaml").write_text(
        "data_folder: a\nmargin: 0.3\ndropout: 0.1\nsizes: [1]\n"
    )
    output = tmp_path / "s"
    arguments = [str(recipe / "am.yaml"), "--seeds=1", f"--output={output}"]
    grid = ["--grid", "dropout", "0.1", "0.2", "--grid", "sizes", "[1, 2/3]"]
    assert sweep_script.main([*arguments, *grid]) == 0
    capsys.readouterr()
    assert sweep_script.main([*arguments, *grid, "--margins=0.2,0.3"]) == 0
    assert "2 of 4 runs are done already" in capsys.readouterr().out
    assert len(calls(output)) == 4
    for call in calls(output):
        assert "--sizes=[1, 2/3]" in call
    folder = output / "am" / "m0.3,dropout=0.2,sizes=[1,%202%2F3]" / "1234"
    assert (folder / "metrics.jsonl").exists()
    with open(output / "grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    got = [(r["margin"], r["dropout"], r["sizes"]) for r in rows]
    assert got == [
        (m, d, "[1, 2/3]") for m in ("0.2", "0.3") for d in ("0.1", "0.2")
    ]
    assert float(rows[0]["frame_error"]) == pytest.approx(20.0)
    table = (output / "grid.md").read_text().splitlines()
    assert table[0].startswith("| recipe | margin | dropout | sizes | seeds |")
    assert table[2].startswith("| am | 0.2 | 0.1 | [1, 2/3] | 1 | 20.00 ")
    assert not (output / "margins.csv").exists()


def test_a_key_of_the_grid_may_be_one_of_the_metrics(recipe, tmp_path, capsys):
    (recipe / "am.yaml").write_text("data_folder: a\nmargin: 0.3\nloss: am\n")
    arguments = [str(recipe / "am.yaml"), f"--output={tmp_path / 's'}"]
    grid = ["--seeds=1", "--grid", "loss", "am", "aam"]
    assert sweep_script.main([*arguments, *grid]) == 0
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" | ")[2] for row in rows] == ["am", "aam"]


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        (["dropuot", "1"], "has no key dropuot; did you mean dropout?"),
        (["margin", "1"], "--grid margin: use --margins"),
        (["dropout"], "--grid dropout has no value"),
        (["dropout", "1", "--grid", "dropout", "2"], "dropout is there twice"),
    ],
)
def test_a_grid_that_is_none(recipe, tmp_path, grid, complaint):
    (recipe / "am.yaml").write_text("data_folder: a\nmargin: 1\ndropout: 0\n")
    arguments = [str(recipe / "am.yaml"), f"--output={tmp_path / 's'}"]
    with pytest.raises(InputError, match=re.escape(complaint)):
        sweep_script.main([*arguments, "--grid", *grid])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("start", [[], ["sweep"]])
def test_the_command(recipe, tmp_path, monkeypatch, capsys, start):
    monkeypatch.chdir(tmp_path)
    for name in ("TIMIT", "lists"):
        (tmp_path / name).mkdir()
    main = cli.main if start else sweep_script.main
    status = main(
        [*start, str(recipe / "am.yaml"), "--margins", "0.1,0.9"]
        + ["--seeds=1", "--data_folder=TIMIT", "--manifest", "lists"]
        + ["--output", "s", "--jobs_per_device=1"]
        + ["--baselines", str(recipe / "old.yaml"), "--", "--x_y=1"]
    )
    assert status == 1
    (call,) = (c for c in calls(tmp_path / "s") if "--margin=0.1" in c)
    places = f"--data_folder={tmp_path}/TIMIT --manifest={tmp_path}/lists"
    assert f"{places} --x_y=1" in call
    assert "| old | 0.35 | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "a", "0.1:0.2", "0.1:0.2:0", "0.5,1.5", "1:0:0.1", "nan"]
)
def test_margins_that_are_none(text):
    with pytest.raises(InputError, match="--margins"):
        sweep_script.parse_margins(text)


def test_files_that_cannot_be_used(recipe, tmp_path):
    (recipe / "text.yaml").write_text("data_folder: a\nmargin: wide\n")
    for hparams, baselines, complaint in (
        ("gone.yaml", [], "gone.yaml does not exist"),
        ("am.yaml", ["gone.yaml"], "gone.yaml: .* cannot be read"),
        ("am.yaml", ["text.yaml"], "text.yaml: margin is 'wide'"),
    ):
        baselines = [recipe / name for name in baselines]
        with pytest.raises(InputError, match=complaint):
            Sweep(recipe / hparams, tmp_path / "s", [0.1], baselines=baselines)
    assert not (tmp_path / "s").exists()


def test_without_a_train_py_it_is_the_recipes(recipe, tmp_path):
    (recipe.parent / "train.py").unlink()
    sweep = Sweep(recipe / "am.yaml", tmp_path / "s", [0.1])
    assert sweep.script.parts[-3:] == ("TIMIT", "speaker_id", "train.py")
    assert sweep.script.is_file()


def test_a_plain_softmax_has_no_margin():
    """Though its file may inherit one."""
    files = Path(__file__).parents[2] / "hparams"
    found = {
        name: sweep_script._own_margin(files / f"{name}.yaml")
        for name in ("am_sincnet", "sincnet", "sincnet_original")
    }
    expected = {"am_sincnet": 0.3, "sincnet": None, "sincnet_original": None}
    assert found == expected

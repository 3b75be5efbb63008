"""The notebook runs, and what it shows is so."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_tour():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)

    resources = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(
        notebook, timeout=500, resources=resources
    ).execute()
    said = "\n".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    print(said)
    right, all_of_them = re.search(r"(\d+) of (\d+) sentences", said).groups()
    assert int(right) >= 0.7 * int(all_of_them)
    same, different = re.search(r"speaker: (\S+), .* one: (\S+)", said).groups()
    assert float(same) > float(different)
    assert "accepted: True, False" in said

"""What is on the documentation's site; see mkdocs.yml, which loads this."""

import json
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = "amsincnet_sb"
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CITATION.cff",
    "LICENSE",
    "docs/*.*",
    "hparams/*.yaml",
    "recipes/**/*.*",
]
AREAS = {
    "nnet": "Layers and losses",
    "lobes": "Networks",
    "inference": "Inference",
    "training": "Training",
    "dataio": "Data",
    "kernels": "Kernels",
    "utils": "Errors and files",
    "commands": "Commands",
}
TOOLS = "plots", "report", "original"
# SpeechBrain's docstrings have other headings than NumPy's.
HEADINGS = {"Arguments": "Parameters", "Example": "Examples"}
FORMULA = re.compile(r"^\.\. math::\n\n((?: +.*\n|\n)+)", re.M)
ROLE = re.compile(r":[a-z]+:`(~?)\.?([\w.]+)`")


def on_files(files, config):
    """Put the pages of the repository and those of the API on the site.

    Each gets the path that it has in the repository.
    """
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and "__pycache__" not in path.parts:
                files.append(
                    File.generated(config, name, abs_src_path=str(path))
                )
    made = {f"api/{name}.md": text for name, text in _api().items()}
    made["docs/tour.md"] = _notebook(ROOT / "docs" / "tour.ipynb")
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))


def on_page_markdown(markdown, **_):
    """Lead to the notebook's page and not to its file."""
    return markdown.replace("](docs/tour.ipynb)", "](docs/tour.md)")


def _api():
    """The API's pages, by name."""
    pages = {"tools": _page("Plots and imports", TOOLS)}
    for area, title in AREAS.items():
        modules = sorted((ROOT / PACKAGE / area).glob("[!_]*.py"))
        names = [area, *(f"{area}.{path.stem}" for path in modules)]
        pages[area] = _page(title, names)
    public = re.findall(
        rf'"(\w+)": "({PACKAGE}\.[\w.]+)"',
        (ROOT / PACKAGE / "__init__.py").read_text(),
    )
    rows = [
        f"- [`{PACKAGE}.{name}`][{module}.{name}]" for name, module in public
    ]
    areas = [f"- [{title}]({area}.md)" for area, title in AREAS.items()]
    pages["index"] = "\n".join(
        [
            "# API\n\nThe names that the package itself has:\n",
            *rows,
            "\nBy folder, from the bottom up:\n",
            *areas,
            "- [Plots and imports](tools.md)",
        ]
    )
    return pages


def _page(title, modules):
    parts = [f"::: {PACKAGE}.{name}" for name in modules]
    return "\n\n".join([f"# {title}", *parts])


def _notebook(path):
    """A notebook as a page, without what its cells print."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    fences = {"markdown": "{}", "code": "```python\n{}\n```"}
    parts = [
        fences[cell["cell_type"]].format("".join(cell["source"]))
        for cell in cells
    ]
    return "\n\n".join(parts)


class Docstrings(griffe.Extension):
    """SpeechBrain's headings as NumPy's, Sphinx's roles and formulas."""

    def on_instance(self, *, obj, **_):
        """Gets called with every module, class, function and attribute."""
        if obj.docstring is None or obj.is_alias:
            return
        # Browsers set MathML themselves: nothing is loaded for it.
        text = FORMULA.sub(
            lambda m: convert(m[1], display="block") + "\n",
            obj.docstring.value,
        )
        for ours, numpys in HEADINGS.items():
            text = re.sub(
                rf"^{ours}\n-+$", f"{numpys}\n----------", text, flags=re.M
            )
        obj.docstring.value = ROLE.sub(lambda m: _link(obj, *m.groups()), text)


def _link(obj, short, name):
    label = name.rpartition(".")[2] if short else name
    if not name.startswith(f"{PACKAGE}."):
        try:
            name = obj.resolve(name)
        except griffe.NameResolutionError:
            name = f"{obj.module.path}.{name}"
    # Without a warning where the site does not have it.
    return (
        f'<autoref optional identifier="{name}"><code>{label}</code></autoref>'
    )

"""A generated corpus, and the recipe run inside the test process."""

import csv
import importlib.util
import logging
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import speechbrain as sb
from recipe_process import (
    RECIPE,
    RUN,
    TDNN,
    TINY,
    corpus as generated,
    metrics,
    state,
)

from amsincnet_sb.utils.errors import exit_on_input_error

SMALL = {**TINY, **RUN}
SINCNET = {"cnn_channels": "[4,4,4]", "cnn_kernel_sizes": "[51,5,5]"}


class Recipe:
    """``train.py`` as a person runs it, and a view of what it leaves."""

    folder = RECIPE
    small = tuple(SMALL)
    metrics = staticmethod(metrics)
    state = staticmethod(state)

    def __init__(self, corpus):
        self.corpus = corpus
        name = "timit_speaker_id_train"
        spec = importlib.util.spec_from_file_location(name, RECIPE / "train.py")
        self.module = importlib.util.module_from_spec(spec)
        # SpeechBrain looks up the module that calls it.
        sys.modules[name] = self.module
        spec.loader.exec_module(self.module)

    def arguments(self, hparams, output, **options):
        """The command line; an option of None is left out."""
        options = {
            "data_folder": self.corpus,
            "output_folder": output,
            **SMALL,
            **(
                TDNN
                if Path(hparams).stem.startswith(("sinc_tdnn", "demo", "quick"))
                else SINCNET
            ),
            **options,
        }
        return [str(RECIPE / "hparams" / hparams)] + [
            f"--{key}" if value is True else f"--{key}={value}"
            for key, value in options.items()
            if value is not None
        ]

    def __call__(self, hparams, output, whole=False, **options):
        """Run it; without the whole, what takes long is left out."""
        arguments = self.arguments(hparams, output, **options)
        with _as_script(arguments) as patch, exit_on_input_error():
            if not whole:
                patch.setattr(self.module, "plot_curves", lambda *_: None)
                patch.setattr(
                    sb.utils.logger, "get_environment_description", str
                )
            self.module.main()
        return output

    @contextmanager
    def hooked(self, method, when, act, after=False):
        """Act once, where `when(brain, *arguments)` holds in a Brain's method."""
        brain, acted = self.module.SpeakerBrain, []
        original = getattr(brain, method)

        def hook(self, *arguments, **keywords):
            due = not acted and when(self, *arguments, **keywords)
            if due:
                acted.append(True)
            if due and not after:
                act()
            result = original(self, *arguments, **keywords)
            if due and after:
                act()
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(brain, method, hook)
            yield

    @staticmethod
    def sentences(output):
        """The rows of ``sentences.csv`` by sentence."""
        with open(output / "sentences.csv", newline="") as file:
            return {row["sentence"]: row for row in csv.DictReader(file)}


@contextmanager
def _as_script(arguments):
    """Arguments, folder and logging as a process of its own has them."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *arguments])
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.chdir(RECIPE)
        try:
            yield patch
        finally:
            for handler in root.handlers:
                if handler not in handlers:
                    handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Four speakers with five sentences to train on and three to test."""
    return generated(tmp_path_factory.mktemp("generated"), speakers=4)


@pytest.fixture(scope="session")
def recipe(corpus):
    return Recipe(corpus)


@pytest.fixture(scope="session")
def finished(recipe, tmp_path_factory):
    """Results of two epochs; to be looked at, not to be changed."""
    # A name that does not fit on a line of yaml.
    output = tmp_path_factory.mktemp("finished") / f"results of {'a' * 60} run"
    return recipe("am_sincnet_m005.yaml", output, whole=True)


@pytest.fixture
def resumed_exactly(recipe, tmp_path):
    """Trains through, and interrupted in the middle of the second epoch.

    Both must end alike, bit for bit; returns the state at the end.
    """

    def after_four(brain, *_):
        return brain.optimizer_step == 4

    def stop():
        raise KeyboardInterrupt

    def run(hparams, **options):
        options["ckpt_interval_steps"] = 1
        through = recipe(hparams, tmp_path / "through", **options)
        stopped = recipe.hooked("on_fit_batch_start", after_four, stop)
        with stopped, pytest.raises(SystemExit):
            recipe(hparams, tmp_path / "resumed", **options)
        resumed = recipe(hparams, tmp_path / "resumed", **options)
        assert recipe.state(resumed) == recipe.state(through)
        assert recipe.metrics(resumed) == recipe.metrics(through)
        return recipe.state(through)

    return run


@pytest.fixture
def refused(recipe, tmp_path, capsys):
    """Runs what must stop; returns its one sentence."""

    def run(hparams="am_sincnet.yaml", **options):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            recipe(hparams, tmp_path / "results", **options)
        assert stopped.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        sentence = lines[-1].removeprefix("Error: ")
        assert sentence != lines[-1] and sentence.endswith((".", "?"))
        assert not any(
            "Traceback" in line or line.startswith("Error")
            for line in lines[:-1]
        )
        return sentence

    return run

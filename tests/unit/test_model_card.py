"""The card of a model: true of its training, safe to show, never lost."""

from types import SimpleNamespace

import pytest

from amsincnet_sb.dataio.manifest import Utterance, write_manifest
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.model_card import describe_training
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.losses import AMSoftmax

RECORDS = [
    {"epoch": 1, "step": 10, "split": "test", "frame_error": 90.0},
    {
        "epoch": 2,
        "step": 20,
        "split": "test",
        "frame_error": 12.345,
        "sentence_error": 1.5,
    },
]


@pytest.fixture
def run(tmp_path):
    """What describe_training reads of a training run."""
    rows = [Utterance(f"a-{i}", 1800.0, "a.wav", 0, 9, "a") for i in range(3)]
    rows += [Utterance("b-1", 1800.0, "b.wav", 0, 9, "b")]
    for name, part in (("train", rows), ("test", rows[:1])):
        write_manifest(tmp_path / f"{name}.csv", part)
    return SimpleNamespace(
        train_annotation=tmp_path / "train.csv",
        valid_annotation=tmp_path / "valid.csv",
        test_annotation=tmp_path / "test.csv",
        validation_sentences=0,
        data_folder="/home/jane/corpora/voices",
        compute_cost=AMSoftmax(0.2),
        loss="am",
        margin=0.2,
        seed=7,
    )


@pytest.fixture
def write(models, tmp_path):
    """Write the model; returns its card's path."""

    def again(training=None, **options):
        folder = tmp_path / "pretrained"
        names = ["ann", "bob"]
        write_pretrained(folder, *models, names, training=training, **options)
        return folder / "README.md"

    return again


def test_what_it_says(run, write):
    text = write(describe_training(run, RECORDS)).read_text()
    assert text.startswith("---\nlibrary_name: speechbrain\n")
    for line in (
        "voices:",
        "| train | 2 | 4 | 2.00 |",
        "| test | 1 | 1 | 0.50 |",
        "| test | 20 | 12.35 | 1.50 |",
        "| margin | 0.2 |",
        "| network | SincNet |",
    ):
        assert line in text.splitlines()
    assert "EncoderClassifier" in text and "jane" not in text


def test_enrolment_needs_class_vectors(models, tmp_path):
    """A plain softmax has none: nobody can be enrolled in such a model."""
    network, _ = models
    size = network.embedding_size
    for kind in (CosineClassifier, SoftmaxClassifier):
        folder = tmp_path / kind.__name__
        write_pretrained(folder, network, kind(size, 2), ["ann", "bob"])
        text = (folder / "README.md").read_text()
        assert ("who.enroll(" in text) == (kind is CosineClassifier)
        assert ("Speakers can be enrolled" in text) == ("who.enroll(" in text)
        assert "without training." in text


@pytest.mark.parametrize(
    "filters, told",
    [
        ("sinc", "filters with learned cut-offs ("),
        ("sinc_hz", "filters with learned cut-offs (`sinc_hz`) ("),
        ("sinc_placed", "those of a training on speechocean762 ended ("),
        ("gabor", "`gabor`, in place of sinc filters ("),
    ],
)
def test_where_the_filters_are_from(models, tmp_path, filters, told):
    """Placed ones need not be learned here, and are of other recordings."""
    _, classifier = models
    network = SincNet(fc_neurons=[8, 8], filters=filters)
    write_pretrained(tmp_path / "m", network, classifier, ["ann", "bob"])
    text = (tmp_path / "m" / "README.md").read_text()
    assert told in " ".join(text.split())


@pytest.mark.parametrize("folder", ["/home/jane", "/Users/jane"])
def test_a_home_is_not_named(run, folder):
    run.data_folder = folder
    assert describe_training(run, RECORDS)["data"] == ""


@pytest.mark.parametrize(
    "name, shown",
    [
        ("a|b <img src=x> [c](d)", r"a\|b \<img src\=x\> \[c\]\(d\):"),
        ("x\n# y\u202e", r"x \# y:"),
        ("<!-- `", r"\<\!\-\- \`:"),
    ],
)
def test_names_from_strangers_are_text(run, write, name, shown):
    training = describe_training(run, RECORDS) | {"data": name}
    assert shown in write(training).read_text().splitlines()


@pytest.mark.parametrize("training", [None, 7, {"data": []}, {"sets": 1}])
def test_a_training_that_is_not_known(write, training):
    assert "Not known" in write(training).read_text()


def test_a_copy_says_the_same_but_how_it_is_loaded(run, write, tmp_path):
    pytest.importorskip("safetensors")
    card = write(describe_training(run, RECORDS))
    who = SpeakerIdentifier.from_results(card.parent)
    for name, loads in (("copy", True), ("hub", False)):
        who.save(tmp_path / name, safetensors=not loads)
        text = (tmp_path / name / "README.md").read_text()
        assert "| test | 20 | 12.35 | 1.50 |" in text.splitlines()
        assert (text == card.read_text()) == loads
        assert ("EncoderClassifier" in text) == loads


def test_it_is_replaced_until_somebody_changes_it(run, write):
    before = write().read_text()
    card = write(describe_training(run, RECORDS))
    assert card.read_text() != before
    card.write_text(mine := card.read_text().replace("## Use", "## My voices"))
    assert write().read_text() == mine

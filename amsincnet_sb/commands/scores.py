"""Commands that verify, measure and show."""

import json
import logging
from pathlib import Path

from amsincnet_sb.commands.common import (
    CHANNEL,
    MODEL,
    answer,
    check_given,
    complain,
    load,
    load_to_change,
    read_recordings,
)
from amsincnet_sb.options import argument, command
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_output

logger = logging.getLogger(__name__)

PUBLISHED = argument("--published", "draw TIMIT's published curves too", bool)


@command(
    *MODEL,
    CHANNEL,
    argument("a", "recording, or -", nargs="?"),
    argument("b", "recording, or -", nargs="?"),
    argument("--threshold", "least score (default: calibrated)", float),
    argument("--trials", "list of pairs to score, in place of a and b"),
    argument("--data-folder", "where its recordings are"),
    argument("--output", "file for its scores"),
)
def verify(options):
    """Decide whether two recordings are of the same speaker.

    Exit status: 0 accepted, 1 rejected, another after an error.

    With --trials, the pairs of a list get scores and no decision: '1 path path'
    as VoxCeleb has it (written as 'score path path'), 'id id target' as Kaldi
    has it ('id id score'; the --data-folder has a wav.scp), or 'path path'
    without labels. Equal error and minimum cost are told where there are labels.

    example: amsincnet verify results/demo/1234 a.wav b.flac
    """
    if options.trials is not None:
        return _verify_trials(options)
    if options.b is None or options.data_folder or options.output:
        raise InputError(
            "Give two recordings, or --trials, --data-folder and --output."
        )
    from amsincnet_sb.inference.recordings import STANDARD_INPUT

    if {options.a, options.b} <= {*STANDARD_INPUT}:
        raise InputError(
            "- is one recording, and there are two to compare; give a file."
        )
    model, threshold = load(options), options.threshold
    _, recordings, failed = read_recordings([options.a, options.b])
    if failed:
        return failed
    if len(recordings) != 2:
        raise InputError("Give two recordings, not folders of others.")
    if threshold is None:
        threshold = model.threshold("verification")
    score, accepted = model.verify(*recordings, threshold)
    values = dict(score=score, threshold=threshold, accepted=accepted)
    said = "same speaker" if accepted else "different speakers"
    said += f"  score {score:.3f}  threshold {threshold:.3f}"
    answer(options, values, said)
    return 0 if accepted else 1


def _verify_trials(options):
    """Write the scores of a list of trials."""
    from amsincnet_sb.inference import trials

    given = options.a, options.threshold
    if given != (None, None) or not (options.data_folder and options.output):
        raise InputError(
            "--trials needs --data-folder and --output, and neither recordings "
            "nor --threshold."
        )
    listed = trials.read_trial_list(options.trials)
    paths = trials.find_recordings(listed, options.data_folder)
    check_output(options.output, options.trials, *paths.values())
    scores, left_out = trials.score_trials(load(options), listed, paths)
    found = trials.write_scores(options.output, listed, scores)
    lines = [f"Scores of {found['trials']} trials: {options.output}"]
    if "eer" in found:
        lines.append(f"  equal error     {found['eer']:8.3f} %")
        lines.append(f"  minDCF (0.01)   {found['min_dcf']:8.3f}")
    answer(options, found, *lines)
    return max([0, *map(complain, left_out)])


@command(
    *MODEL,
    CHANNEL,
    argument("--manifest", "CSV of a preparation", required=True),
    argument("--data-folder", "folder of its paths", required=True),
    argument("--trials", "pairs, '1 id id' or '0 id id' (default: all)"),
    argument("--calibrate", "keep the thresholds of equal errors", bool),
    argument("--cohort", "manifest of training sentences"),
    argument("--output", "folder of its files (default: the model's)"),
)
def evaluate(options):
    """Measure errors of identification and verification on a manifest.

    Identification is of the closed and the open set. Writes evaluation.json
    and det.png into --output. --calibrate keeps the thresholds for
    verify and identify --unknown, and how sure segments is at what lead; the
    speakers of a --cohort normalise the scores of verification and are kept
    with them.

    example: amsincnet evaluate results/demo/1234 --manifest \\
        results/demo/1234/manifests/test.csv --data_folder demo/corpus
    """
    from amsincnet_sb.inference import evaluation
    from amsincnet_sb.inference.segment_calibration import certainty_from
    from amsincnet_sb.plots import plot_det

    check_given("--data-folder", options.data_folder)
    check_given("--output", options.output)
    manifest, corpus = options.manifest, options.data_folder
    given = options.model if options.output is None else options.output
    folder = Path(given)
    written = folder / "evaluation.json", folder / "det.png"
    for path in written:
        inputs = manifest, options.trials, options.cohort
        check_output(path, *filter(None, inputs))
    if options.calibrate and options.trials is None:
        evaluation.check_pairs(manifest)
    model = load_to_change(options) if options.calibrate else load(options)
    left_out = []
    # Every window that the evaluation of a training run counts.
    model.hop = model.embedding_model.hop
    model.use_float32()
    if options.cohort is not None:
        before = model.calibration
        model.cohort = evaluation.cohort_from(
            model, options.cohort, corpus, left_out
        )
        if model.calibration is not before and not options.calibrate:
            logger.warning(
                "Note: the threshold of verification was found with another "
                "cohort, so that no errors at it are told; find one with "
                "--calibrate."
            )
    results = evaluation.evaluate_model(
        model, manifest, corpus, options.trials, left_out
    )
    if options.calibrate:
        # What this manifest cannot tell stays as it is.
        kept = model.calibration
        found = evaluation.calibration_from(results, manifest)
        model.calibration = {**kept, **found}
        if model.classifier.enrolled:  # who are scored by what was found
            results = evaluation.evaluate_model(
                model, manifest, corpus, options.trials, []
            )
            found = evaluation.calibration_from(results, manifest)
            model.calibration = {**kept, **found}
        certainty = certainty_from(model, manifest, corpus)
        model.calibration = {**model.calibration, **certainty}
        # At thresholds of before; at those just found they are the equal ones.
        for task in filter(
            None, (results["open_set"], results["verification"])
        ):
            task.pop("calibrated", None)
    whole, det = json.dumps(results, indent=1), None
    if results["verification"]:
        det = results["verification"].pop("det")
    try:  # neither a full disk nor a reader that is gone costs the other
        answer(options, results, *evaluation.report(results))
    finally:
        try:
            with atomic_write(written[0]) as file:
                file.write(whole)
            if det:
                plot_det(path=written[1], **det)
        finally:
            if options.calibrate:
                model.save()
    return max([0, *map(complain, left_out)])


@command(
    argument(
        "what",
        "picture",
        choices=["curves", "det", "confusions", "margins", "filters"],
    ),
    argument("results", "results folder, for margins that of a sweep"),
    PUBLISHED,
    argument("--output", "PNG (default: in the results folder)"),
)
def plot(options):
    """Draw pictures of a results folder.

    Learning curves, misses against false alarms (of evaluate), confused
    speakers, errors against the margin (of sweep), or filters.

    example: amsincnet plot curves results/demo/1234 --published
    """
    from amsincnet_sb.report import draw_picture

    if options.published and options.what not in ("curves", "margins"):
        raise InputError("--published is for curves and margins; leave it out.")
    given = options.results, options.what, options.output, options.published
    print(draw_picture(*given))


@command(
    argument("results", "results folder"),
    PUBLISHED,
    argument("--output", "HTML (default: report.html in the results folder)"),
)
def report(options):
    """Write one HTML page about a results folder.

    It shows errors, learning curves, verification, confusions, filters and
    hyperparameters, and needs no other file.

    example: amsincnet report results/demo/1234
    """
    from amsincnet_sb.report import write_report

    print(write_report(options.results, options.output, options.published))

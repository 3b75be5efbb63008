"""How well a trained model names and verifies speakers."""

from pathlib import Path

import torch
from tqdm import tqdm

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.identifier import Analysis
from amsincnet_sb.inference.score_norm import MIN_COHORT
from amsincnet_sb.inference.scoring import det_points, eer, min_dcf
from amsincnet_sb.training.metrics import error_summary
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "all_pairs",
    "calibration_from",
    "cohort_from",
    "evaluate_model",
    "read_trials",
    "report",
]

MAX_PAIRED = 6000  # sentences: 18 million pairs, which take 2 GB


def evaluate_model(model, manifest, data_folder, trials=None):
    """Closed-set, open-set and verification errors on a manifest.

    Arguments
    ---------
    model : amsincnet_sb.inference.identifier.SpeakerIdentifier
        The model.
    manifest : str or Path
        As written by the preparation of a corpus. Speakers that the model
        does not know count as unknown.
    data_folder : str or Path
        What its paths are relative to.
    trials : str or Path, optional
        See :func:`read_trials`; all pairs of sentences if not given.

    Returns
    -------
    dict
        ``sentences`` and ``speakers`` (numbers), then, each None where the
        manifest cannot tell: ``closed_set`` (``frame_error`` and
        ``sentence_error`` of the known speakers, in per cent),
        ``open_set`` and ``verification`` (``eer`` in per cent, its
        ``threshold``, the numbers of trials; verification has ``min_dcf``
        and the points of the ``det`` curve too). Of a model that has been
        calibrated before, ``calibrated`` gives the ``misses`` and
        ``false_alarms`` (in per cent) at the threshold kept with it.

        Open-set trials compare the best candidate's share of a sentence with
        the threshold. Sentences of unknown speakers are to be rejected; if there
        are none, those of known ones are, against the other speakers.
        ``own_cosine`` is the mean output of trained speakers for themselves.

    Raises
    ------
    InputError
        If the manifest, a recording or the list of trials is not usable.
    """
    sentences = read_manifest(manifest)
    if not sentences:
        raise InputError(f"{manifest} lists no sentence to evaluate on.")
    # Before an hour of listening.
    pairs = trials and read_trials(trials, [s.id for s in sentences])
    if pairs is None and len(sentences) > MAX_PAIRED:
        raise InputError(
            f"{manifest} lists {len(sentences)} sentences, too many to pair "
            "each with each; give a list with --trials."
        )
    index = {name: i for i, name in enumerate(model.speakers)}
    labels = [index.get(s.spk_id, -1) for s in sentences]
    # Where nobody is unknown, everybody is for once.
    without = () if -1 in labels or len(index) < 2 else labels
    found = _listen(model, sentences, data_folder, without)
    found = Analysis(*(torch.stack(each).cpu() for each in zip(*found)))
    labels = torch.tensor(labels)
    names = [s.spk_id for s in sentences]
    if pairs is None:
        pairs = all_pairs(names)
    thresholds = {
        task: model.calibration.get(task, {}).get("threshold")
        for task in ("identification", "verification")
    }
    return {
        "sentences": len(sentences),
        "speakers": len(set(names)),
        "closed_set": _closed_set(found, labels),
        "open_set": _open_set(
            found, labels, model.trained_speakers, thresholds["identification"]
        ),
        "verification": _verification(
            model, found, *pairs, thresholds["verification"]
        ),
    }


def cohort_from(model, manifest, data_folder):
    """Directions of speakers, against whom verification measures.

    Arguments
    ---------
    model : amsincnet_sb.inference.identifier.SpeakerIdentifier
        The model.
    manifest : str or Path
        Sentences of other speakers than those of the trials, or at least
        other sentences: the training manifest.
    data_folder : str or Path
        What its paths are relative to.

    Returns
    -------
    torch.Tensor
        ``[speakers, embedding_size]``, for
        :attr:`SpeakerIdentifier.cohort`.

    Raises
    ------
    InputError
        If a recording cannot be used, or there are fewer than three speakers.
    """
    sentences = read_manifest(manifest)
    speakers = {}
    for position, sentence in enumerate(sentences):
        speakers.setdefault(sentence.spk_id, []).append(position)
    if len(speakers) < MIN_COHORT:
        raise InputError(
            f"{manifest} has {len(speakers)} speakers, but a cohort must have "
            f"at least {MIN_COHORT}."
        )
    found = _listen(model, sentences, data_folder)
    directions = torch.stack([one.direction for one in found]).cpu()
    return torch.stack([directions[own].mean(0) for own in speakers.values()])


def _listen(model, sentences, data_folder, without=()):
    """An Analysis of each sentence."""
    rate = model.embedding_model.sample_rate
    waves = (
        read_audio(Path(data_folder) / s.wav, s.start, s.stop, rate)
        for s in sentences
    )
    found = tqdm(
        model.analyse_all(waves, without),
        total=len(sentences),
        unit="file",
        disable=None,
    )
    return [_usable(one, s) for one, s in zip(found, sentences)]


def _usable(found, sentence):
    if isinstance(found, InputError):
        raise InputError(f"{sentence.wav}: {found}") from found
    return found


def calibration_from(results, manifest):
    """Thresholds to keep with a model.

    Arguments
    ---------
    results : dict
        Of :func:`evaluate_model`.
    manifest : str or Path
        What they were found on.

    Returns
    -------
    dict
        For :attr:`SpeakerIdentifier.calibration`: of each task the equal-
        error ``threshold``, and what it was found on.

    Raises
    ------
    InputError
        If the manifest has no pair of sentences of one speaker, or no two
        speakers.
    """
    found = {
        "verification": results["verification"],
        "identification": results["open_set"],
    }
    if not found["verification"]:
        raise InputError(
            f"{manifest} has no two sentences of one speaker, or only one "
            "speaker, so that no threshold can be found."
        )
    dropped = ("det", "calibrated")
    return {
        task: {
            "manifest": Path(manifest).name,
            **{k: v for k, v in errors.items() if k not in dropped},
        }
        for task, errors in found.items()
        if errors
    }


def report(results):
    """The results of :func:`evaluate_model` for a person.

    Arguments
    ---------
    results : dict
        Of :func:`evaluate_model`.

    Returns
    -------
    list of str
        Lines.
    """
    lines = [
        f"{results['sentences']} sentences, {results['speakers']} speakers"
    ]
    closed, opened = results["closed_set"], results["open_set"]
    verified = results["verification"]
    if closed:
        lines += [
            "identification among known speakers "
            f"({closed['sentences']} sentences)",
            f"  frame error     {closed['frame_error']:8.3f} %",
            f"  sentence error  {closed['sentence_error']:8.3f} %",
        ]
    if opened:
        lines += [
            f"rejection of unknown speakers ({opened['known']} sentences to "
            f"accept, {opened['unknown']} to reject: {opened['unknown_are']})",
            f"  equal error     {opened['eer']:8.3f} %  at threshold "
            f"{opened['threshold']:.3f}",
            *_at_calibrated(opened),
        ]
    if verified:
        lines += [
            f"verification ({verified['targets']} target and "
            f"{verified['nontargets']} non-target trials)",
            f"  equal error     {verified['eer']:8.3f} %  at threshold "
            f"{verified['threshold']:.3f}",
            *_at_calibrated(verified),
            f"  minDCF (0.01)   {verified['min_dcf']:8.3f}",
        ]
    return lines


def _at_calibrated(errors):
    if found := errors.get("calibrated"):
        yield (
            f"  at the calibrated threshold {found['threshold']:.3f}: "
            f"{found['misses']:.3f} % misses, "
            f"{found['false_alarms']:.3f} % false alarms"
        )


def read_trials(path, ids):
    """Read a list of trials as VoxCeleb's: ``1 first second`` a line.

    Arguments
    ---------
    path : str or Path
        Text; 1 for the same speaker, 0 for two.
    ids : list of str
        Names of the sentences.

    Returns
    -------
    first, second : torch.Tensor
        ``[trials]``, positions in ``ids``.
    same : torch.Tensor
        ``[trials]``, bool.

    Raises
    ------
    InputError
        Names the line that is not a trial, or says what is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 a b\\n0 a c\\n")
    >>> read_trials(path, ["a", "b", "c"])[1].tolist()
    [1, 2]
    """
    position = {name: i for i, name in enumerate(ids)}
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if not words:
                    continue
                if len(words) != 3 or words[0] not in ("0", "1"):
                    raise InputError(
                        f"{path}, line {number}: a trial is 0 or 1 and two "
                        "sentences, such as: 1 ann-1 ann-2."
                    )
                for word in words[1:]:
                    if word not in position:
                        raise InputError(
                            f"{path}, line {number}: {word!r} is no sentence "
                            "of the manifest."
                        )
                rows.append(
                    [int(words[0]), position[words[1]], position[words[2]]]
                )
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}.") from error
    table = torch.tensor(rows).reshape(-1, 3)
    same = table[:, 0] == 1
    if not same.any() or same.all():
        raise InputError(
            f"{path} holds {int(same.sum())} trials of one speaker and "
            f"{int((~same).sum())} of two, but at least one of each is needed."
        )
    return table[:, 1], table[:, 2], same


def all_pairs(names):
    """Every pair of sentences.

    Arguments
    ---------
    names : list of str
        Speaker of each sentence.

    Returns
    -------
    first, second : torch.Tensor
        ``[pairs]``, positions.
    same : torch.Tensor
        ``[pairs]``, bool: whether the speaker is the same.

    Example
    -------
    >>> all_pairs(["ann", "ann", "bob"])[2]
    tensor([ True, False, False])
    """
    first, second = torch.triu_indices(len(names), len(names), 1)
    numbers = {name: i for i, name in enumerate(names)}
    speaker = torch.tensor([numbers[name] for name in names])
    return first, second, speaker[first] == speaker[second]


def _closed_set(found, labels):
    known = labels >= 0
    if not known.any():
        return None
    scores, votes, labels = (
        found.scores[known],
        found.votes[known],
        labels[known],
    )
    right = votes.gather(1, labels[:, None]).squeeze(1)
    errors = error_summary(1 - right, scores, labels)
    return {**errors, "sentences": len(labels)}


def _open_set(found, labels, trained, calibrated):
    known, scores = labels >= 0, found.scores
    if not known.any() or scores.shape[1] < 2:
        return None
    accept = _best_share(scores[known], found.posteriors[known])
    if known.all():
        how = "known speakers, their own class left out"
        reject = _best_share(found.other_scores, found.other_posteriors)
    else:
        how = "speakers the model does not know"
        reject = _best_share(scores[~known], found.posteriors[~known])
    trials = torch.cat([accept, reject])
    targets = torch.cat([torch.ones_like(accept), torch.zeros_like(reject)])
    errors = {
        **_equal_error(trials, targets.bool(), calibrated),
        "known": len(accept),
        "unknown": len(reject),
        "unknown_are": how,
    }
    learned = known & (labels < trained)
    if learned.any():
        own = found.outputs[learned].gather(1, labels[learned][:, None])
        errors["own_cosine"] = own.mean().item()
    return errors


def _best_share(scores, posteriors):
    """What is compared with the threshold: the share of who scores best."""
    return posteriors.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1)


def _verification(model, found, first, second, same, calibrated):
    if not same.any() or same.all():
        return None
    scores = model.compare(found.direction, first, second)
    miss, false_alarm = det_points(scores, same)
    return {
        **_equal_error(scores, same, calibrated),
        "min_dcf": min_dcf(scores, same)[0],
        "targets": int(same.sum()),
        "nontargets": int((~same).sum()),
        "det": {"miss": miss, "false_alarm": false_alarm},
    }


def _equal_error(scores, targets, calibrated):
    """Where both kinds of error are equal, and those at a threshold."""
    rate, threshold = eer(scores, targets)
    # Both errors are the same up to the next score: as far as can be from
    # the scores on either side.
    above = scores[scores > threshold]
    if len(above):
        below = scores[scores <= threshold].max().item()
        threshold = (below + above.min().item()) / 2
    errors = {"eer": 100 * rate, "threshold": threshold}
    if calibrated is not None:
        accepted = (scores > calibrated).double()
        errors["calibrated"] = {
            "threshold": calibrated,
            "misses": 100 * (1 - accepted[targets].mean().item()),
            "false_alarms": 100 * accepted[~targets].mean().item(),
        }
    return errors

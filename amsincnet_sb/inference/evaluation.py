"""How well a trained model identifies and verifies speakers."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tqdm import tqdm

from amsincnet_sb.dataio.audio import (
    channels_cancel,
    is_silent,
    read_audio,
    silence,
)
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.scoring import (
    MIN_COHORT,
    compare,
    det_points,
    eer,
    min_dcf,
)
from amsincnet_sb.inference.trials import read_trial_list
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.training.metrics import error_summary
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "calibration_from",
    "check_pairs",
    "cohort_from",
    "evaluate_model",
    "read_trials",
    "report",
]

FEWEST = 4  # speakers, for one of them to be left out as unknown
MAX_PAIRED = 6000  # utterances: 18 million pairs, which take 2 GB


def evaluate_model(model, manifest, data_folder, trials=None, left_out=None):
    """Closed-set, open-set and verification errors on a manifest.

    Open-set trials compare the best candidate's share of an utterance with
    the threshold. Utterances of unknown speakers are to be rejected; if there
    are none, those of known ones are, with the class of their own speaker left
    out.

    ``trials`` are those of :func:`read_trials`; all pairs of utterances if not
    given. The InputErrors about utterances that cannot be used are appended to
    the list ``left_out``, and the others are evaluated; without such a list
    the first is raised. Returns the content of ``evaluation.json``: ``closed_set``,
    ``open_set`` and ``verification``, each None where the manifest cannot
    tell. Errors are in per cent; ``own_cosine`` is the mean output of trained
    speakers for themselves, ``calibrated`` the errors at the threshold of the
    model.
    """
    utterances = read_manifest(manifest)
    if not utterances:
        raise InputError(f"{manifest} lists no utterance to evaluate on.")
    # Before an hour of audio is read.
    if trials is not None:
        pairs = read_trials(trials, [u.id for u in utterances])
    elif len(utterances) > MAX_PAIRED:
        raise InputError(
            f"{manifest} lists {len(utterances)} utterances, too many to pair "
            "each with each; give a list with --trials."
        )
    else:
        pairs = _all_pairs([u.spk_id for u in utterances])
    label_of = {name: i for i, name in enumerate(model.speakers)}
    labels = torch.tensor([label_of.get(u.spk_id, -1) for u in utterances])
    means, used = _score_utterances(
        model, utterances, data_folder, labels, left_out
    )
    if not means.scores.isfinite().all() or means.direction.isnan().any():
        raise InputError(
            f"{manifest}: the model answers with NaN or infinite values, so "
            "that there are no errors to tell; train or import it again."
        )
    all_known = bool((labels >= 0).all())
    labels, (first, second, same) = labels[used], _among(pairs, used)
    thresholds = {
        task: found["threshold"] for task, found in model.calibration.items()
    }
    return {
        "sentences": int(used.sum()),
        "left_out": int((~used).sum()),
        "speakers": len({u.spk_id for u, has in zip(utterances, used) if has}),
        "closed_set": _closed_set(means, labels),
        "open_set": _open_set(
            means,
            labels,
            len(model.classifier.names),
            thresholds.get("identification"),
            all_known,
        ),
        "verification": _verification(
            compare(means.direction, first, second, model.cohort),
            same,
            thresholds.get("verification"),
        ),
    }


def cohort_from(model, manifest, data_folder, left_out=None):
    """The cohort that normalises verification scores, ``[speakers, size]``.

    The manifest lists at least three speakers, others than those of the
    trials, or at least other utterances: the training manifest. For
    ``left_out`` see :func:`evaluate_model`.
    """
    utterances = read_manifest(manifest)
    _check_cohort({u.spk_id for u in utterances}, manifest)
    of_speaker = {}
    for utterance, one in _analyses(model, utterances, data_folder, left_out):
        if one is not None:
            directions = of_speaker.setdefault(utterance.spk_id, [])
            directions.append(one.direction.cpu())
    _check_cohort(of_speaker, manifest)
    return torch.stack(
        [torch.stack(each).mean(0) for each in of_speaker.values()]
    )


def _check_cohort(speakers, manifest):
    if len(speakers) < MIN_COHORT:
        raise InputError(
            f"{manifest} has {len(speakers)} speakers, but a cohort must have "
            f"at least {MIN_COHORT}."
        )


def _analyses(model, utterances, data_folder, left_out, measure=None):
    """Each utterance and its analysis, None for one that is left out."""

    def waves():
        """The audio of each utterance, or why it cannot be used."""
        for u in utterances:
            try:
                yield _wave(model, u, Path(data_folder) / u.wav)
            except InputError as error:
                yield error

    found = tqdm(
        model.analyse_all(waves(), errors=True, measure=measure),
        total=len(utterances),
        unit="file",
        disable=None,
    )
    usable = False
    for utterance, one in zip(utterances, found):
        if isinstance(one, InputError):
            named = utterance.wav in str(one)
            error = one if named else InputError(f"{utterance.wav}: {one}")
            if left_out is None or (utterance is utterances[-1] and not usable):
                raise error from one
            left_out.append(error)
            one = None
        usable = usable or one is not None
        yield utterance, one


def _wave(model, utterance, path):
    """The audio of an utterance, which is refused as a silent file is."""
    limits = utterance.start, utterance.stop
    rate, channel = model.embedding_model.sample_rate, model.channel
    wave = read_audio(path, *limits, rate, channel, clip=False)
    if is_silent(wave):
        raise silence(path, channel is None and channels_cancel(path, *limits))
    return wave


class _Means(NamedTuple):
    """Means over the windows of each utterance."""

    scores: torch.Tensor  # [utterances, speakers], log-posteriors
    posteriors: torch.Tensor
    other_scores: torch.Tensor  # of a model that lacks the true speaker
    other_posteriors: torch.Tensor
    right: torch.Tensor  # [utterances], fraction of the windows
    own_cosine: torch.Tensor  # [utterances], output for the true speaker
    direction: torch.Tensor  # [utterances, embedding_size]


def _score_utterances(model, utterances, data_folder, labels, left_out):
    """The _Means, and which utterances they are of, ``[utterances]`` of bool.

    A label of -1 is a speaker the model does not know.
    """
    # Where all speakers are known, each is scored as unknown too.
    leave_out = len(model.speakers) > 1 and bool((labels >= 0).all())
    labels = labels.to(model.device)

    def measure(embeddings, outputs, utterance):
        """Scores of a block of windows, own classes masked."""
        label = labels[utterance]
        own = label.clamp(min=0)[:, None]
        scores = others = log_posteriors(outputs, model.scale)
        if leave_out:
            without = outputs.scatter(1, own, -torch.inf)
            others = log_posteriors(without, model.scale)
        return _Means(
            scores,
            scores.exp(),
            others,
            others.exp(),
            (scores.argmax(-1) == label).float(),
            outputs.gather(1, own).squeeze(1),
            F.normalize(embeddings, dim=-1),
        )

    found = [
        one
        for _, one in _analyses(
            model, utterances, data_folder, left_out, measure
        )
    ]
    used = torch.tensor([one is not None for one in found])
    rows = zip(*(one for one in found if one is not None))
    return _Means(*(torch.stack(each).cpu() for each in rows)), used


def _among(pairs, used):
    """Those of some trials whose utterances were both used, renumbered."""
    first, second, same = pairs
    kept, number = used[first] & used[second], used.cumsum(0) - 1
    return number[first[kept]], number[second[kept]], same[kept]


def check_pairs(manifest):
    """Raise InputError where all pairs of utterances are of one kind.

    No threshold can be found with them, which is told before an hour of audio
    is read.
    """
    counts = Counter(u.spk_id for u in read_manifest(manifest))
    if counts and (len(counts) < 2 or max(counts.values()) < 2):
        raise _no_pairs(manifest)


def _no_pairs(manifest):
    return InputError(
        f"{manifest} has no two utterances of one speaker, or only one "
        "speaker, so that no threshold can be found."
    )


def calibration_from(results, manifest):
    """Thresholds of equal error, for :attr:`SpeakerIdentifier.calibration`.

    ``results`` are those of :func:`evaluate_model` on the manifest.
    """
    if not results["verification"]:
        raise _no_pairs(manifest)
    tasks = {"verification": "verification", "identification": "open_set"}
    return {
        task: {
            "manifest": Path(manifest).name,
            **{
                name: value
                for name, value in results[key].items()
                if name not in ("det", "calibrated")
            },
        }
        for task, key in tasks.items()
        if results[key]
    }


def report(results):
    """The results of :func:`evaluate_model` as lines to print."""
    lines = [
        f"{results['sentences']} utterances, {results['speakers']} speakers"
    ]
    if left_out := results.get("left_out"):
        lines.append(f"left out because they cannot be used: {left_out}")
    if closed := results["closed_set"]:
        lines += [
            "identification among known speakers "
            f"({closed['sentences']} utterances)",
            f"  frame error     {closed['frame_error']:8.3f} %",
            f"  sentence error  {closed['sentence_error']:8.3f} %",
        ]
    if opened := results["open_set"]:
        lines += [
            f"rejection of unknown speakers ({opened['known']} utterances to "
            f"accept, {opened['unknown']} to reject: {opened['unknown_are']})",
            *_error_lines(opened),
        ]
    if verified := results["verification"]:
        lines += [
            f"verification ({verified['targets']} target and "
            f"{verified['nontargets']} non-target trials)",
            *_error_lines(verified),
            f"  minDCF (0.01)   {verified['min_dcf']:8.3f}",
        ]
    return lines


def _error_lines(errors):
    yield (
        f"  equal error     {errors['eer']:8.3f} %  at threshold "
        f"{errors['threshold']:.3f}"
    )
    if found := errors.get("calibrated"):
        yield (
            f"  at the calibrated threshold {found['threshold']:.3f}: "
            f"{found['misses']:.3f} % misses, "
            f"{found['false_alarms']:.3f} % false alarms"
        )


def read_trials(path, ids):
    """Read a list of trials of a manifest's utterances, with labels.

    In one of the forms of
    :func:`amsincnet_sb.inference.trials.read_trial_list`. ``first`` and
    ``second`` are positions in ``ids``. Returns them and whether the speaker
    is the same, ``[trials]`` each.
    """
    listed = read_trial_list(path)
    if listed.same is None:
        raise InputError(
            f"{path} does not say which trials are of one speaker; write '1 a "
            "b' or '0 a b'."
        )
    position = {name: i for i, name in enumerate(ids)}
    for where, pair in zip(listed.where, listed.pairs):
        for name in pair:
            if name not in position:
                raise InputError(
                    f"{where}: {name!r} is no utterance of the manifest."
                )
    same = torch.tensor(listed.same)
    if not same.any() or same.all():
        raise InputError(
            f"{path} holds {int(same.sum())} trials of one speaker and "
            f"{int((~same).sum())} of two, but at least one of each is needed."
        )
    places = [[position[a], position[b]] for a, b in listed.pairs]
    return *torch.tensor(places).T, same


def _all_pairs(speakers):
    """Every pair of utterances, as :func:`read_trials` returns trials."""
    first, second = torch.triu_indices(len(speakers), len(speakers), 1)
    label = {name: i for i, name in enumerate(speakers)}
    label = torch.tensor([label[name] for name in speakers])
    return first, second, label[first] == label[second]


def _closed_set(means, labels):
    known = labels >= 0
    if not known.any():
        return None
    wrong, scores = 1 - means.right[known], means.scores[known]
    errors = error_summary(wrong, scores, labels[known])
    return {**errors, "sentences": int(known.sum())}


def _open_set(means, labels, trained, calibrated, all_known):
    known, scores = labels >= 0, means.scores
    # With one's own class left out, the best of one or two others is no rest.
    if not known.any() or scores.shape[1] < (FEWEST if all_known else 2):
        return None
    shares = _best_share(scores, means.posteriors)
    if all_known:
        how = "known speakers, their own class left out"
        reject = _best_share(means.other_scores, means.other_posteriors)
    else:
        how = "speakers the model does not know"
        reject = shares[~known]
        if not len(reject):
            return None
    accept = shares[known]
    targets = torch.arange(len(accept) + len(reject)) < len(accept)
    errors = {
        **_equal_error(torch.cat([accept, reject]), targets, calibrated),
        "known": len(accept),
        "unknown": len(reject),
        "unknown_are": how,
    }
    learned = known & (labels < trained)
    if learned.any():
        errors["own_cosine"] = means.own_cosine[learned].mean().item()
    return errors


def _best_share(scores, posteriors):
    """The share of the speaker who scores best: the threshold is for it."""
    return posteriors.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1)


def _verification(scores, same, calibrated):
    if not same.any() or same.all():
        return None
    miss, false_alarm = det_points(scores, same)
    return {
        **_equal_error(scores, same, calibrated),
        "min_dcf": min_dcf(scores, same)[0],
        "targets": int(same.sum()),
        "nontargets": int((~same).sum()),
        "det": {"miss": miss, "false_alarm": false_alarm},
    }


def _equal_error(scores, targets, calibrated):
    """The equal error, and the errors at a calibrated threshold."""
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

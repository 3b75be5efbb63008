"""How well a trained model identifies and verifies speakers."""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tqdm import tqdm

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.scoring import (
    MIN_COHORT,
    compare,
    det_points,
    eer,
    min_dcf,
)
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.training.metrics import error_summary
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "calibration_from",
    "cohort_from",
    "evaluate_model",
    "read_trials",
    "report",
]

MAX_PAIRED = 6000  # utterances: 18 million pairs, which take 2 GB


def evaluate_model(model, manifest, data_folder, trials=None):
    """Closed-set, open-set and verification errors on a manifest.

    Open-set trials compare the best candidate's share of an utterance with
    the threshold. Utterances of unknown speakers are to be rejected; if there
    are none, those of known ones are, with the class of their own speaker left
    out.

    ``trials`` are those of :func:`read_trials`; all pairs of utterances if not
    given. Returns the content of ``evaluation.json``: ``closed_set``,
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
    means = _score_utterances(model, utterances, data_folder, labels)
    first, second, same = pairs
    thresholds = {
        task: found["threshold"] for task, found in model.calibration.items()
    }
    return {
        "sentences": len(utterances),
        "speakers": len({u.spk_id for u in utterances}),
        "closed_set": _closed_set(means, labels),
        "open_set": _open_set(
            means,
            labels,
            len(model.classifier.names),
            thresholds.get("identification"),
        ),
        "verification": _verification(
            compare(means.direction, first, second, model.cohort),
            same,
            thresholds.get("verification"),
        ),
    }


def cohort_from(model, manifest, data_folder):
    """The cohort that normalises verification scores, ``[speakers, size]``.

    The manifest lists at least three speakers, others than those of the
    trials, or at least other utterances: the training manifest.
    """
    utterances = read_manifest(manifest)
    names = [u.spk_id for u in utterances]
    speakers = list(dict.fromkeys(names))
    if len(speakers) < MIN_COHORT:
        raise InputError(
            f"{manifest} has {len(speakers)} speakers, but a cohort must have "
            f"at least {MIN_COHORT}."
        )
    found = _analyses(model, utterances, data_folder)
    directions = torch.stack([one.direction for one in found]).cpu()
    owner = torch.tensor([speakers.index(name) for name in names])
    return torch.stack(
        [directions[owner == i].mean(0) for i in range(len(speakers))]
    )


def _analyses(model, utterances, data_folder, measure=None):
    """The analysis of each utterance; its file is named in errors."""
    rate = model.embedding_model.sample_rate
    waves = (
        read_audio(
            Path(data_folder) / u.wav, u.start, u.stop, rate, model.channel
        )
        for u in utterances
    )
    found = tqdm(
        model.analyse_all(waves, errors=True, measure=measure),
        total=len(utterances),
        unit="file",
        disable=None,
    )
    for utterance, one in zip(utterances, found):
        if isinstance(one, InputError):
            raise InputError(f"{utterance.wav}: {one}") from one
        yield one


class _Means(NamedTuple):
    """Means over the windows of each utterance."""

    scores: torch.Tensor  # [utterances, speakers], log-posteriors
    posteriors: torch.Tensor
    other_scores: torch.Tensor  # of a model that lacks the true speaker
    other_posteriors: torch.Tensor
    right: torch.Tensor  # [utterances], fraction of the windows
    own_cosine: torch.Tensor  # [utterances], output for the true speaker
    direction: torch.Tensor  # [utterances, embedding_size]


def _score_utterances(model, utterances, data_folder, labels):
    """The _Means; a label of -1 is a speaker the model does not know."""
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

    found = _analyses(model, utterances, data_folder, measure)
    return _Means(*(torch.stack(each).cpu() for each in zip(*found)))


def calibration_from(results, manifest):
    """Thresholds of equal error, for :attr:`SpeakerIdentifier.calibration`.

    ``results`` are those of :func:`evaluate_model` on the manifest.
    """
    if not results["verification"]:
        raise InputError(
            f"{manifest} has no two utterances of one speaker, or only one "
            "speaker, so that no threshold can be found."
        )
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
    """Read a list of trials as VoxCeleb's: ``1 first second`` per line.

    ``first`` and ``second`` are positions in ``ids``. Returns them and whether
    the speaker is the same, ``[trials]`` each.
    """
    position = {name: i for i, name in enumerate(ids)}
    try:
        with open(path, encoding="utf-8") as file:
            rows = [
                _trial(words, position, f"{path}, line {number}")
                for number, line in enumerate(file, start=1)
                if (words := line.split())
            ]
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


def _trial(words, position, where):
    if len(words) != 3 or words[0] not in ("0", "1"):
        raise InputError(
            f"{where}: a trial is 0 or 1 and two utterances, such as: "
            "1 ann-1 ann-2."
        )
    for word in words[1:]:
        if word not in position:
            raise InputError(
                f"{where}: {word!r} is no utterance of the manifest."
            )
    return [int(words[0]), position[words[1]], position[words[2]]]


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


def _open_set(means, labels, trained, calibrated):
    known, scores = labels >= 0, means.scores
    if not known.any() or scores.shape[1] < 2:
        return None
    shares = _best_share(scores, means.posteriors)
    if known.all():
        how = "known speakers, their own class left out"
        reject = _best_share(means.other_scores, means.other_posteriors)
    else:
        how = "speakers the model does not know"
        reject = shares[~known]
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

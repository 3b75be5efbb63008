"""Frame error and sentence error."""

import csv

import torch
import torch.distributed as dist

from amsincnet_sb.training.distributed import add_over_ranks, world_size
from amsincnet_sb.utils.files import atomic_write

__all__ = ["SentenceErrors", "error_summary"]

# Scores are added up as whole multiples of this. Such sums are the same in
# whatever order, and thus on a GPU and on several processes too.
RESOLUTION = 2.0**-32
LIMIT = 1e5  # of a score; a sentence may have 20 000 windows


def error_summary(frame_errors, scores, labels):
    """Frame error and sentence error of a set of sentences.

    Arguments
    ---------
    frame_errors : torch.Tensor
        ``[sentences]``, fraction of wrong windows of each, from 0 to 1.
    scores : torch.Tensor
        ``[sentences, speakers]``, added up over windows or averaged.
    labels : torch.Tensor
        ``[sentences]``, the true speaker of each.

    Returns
    -------
    dict
        ``frame_error``: the mean of ``frame_errors``; ``sentence_error``: the
        fraction of sentences in which another speaker scores best; both in
        per cent.

    Example
    -------
    >>> scores = torch.tensor([[-0.1, -2.0], [-0.1, -3.0]])
    >>> error_summary(torch.tensor([0.0, 0.5]), scores, torch.tensor([0, 1]))
    {'frame_error': 25.0, 'sentence_error': 50.0}
    """
    wrong = scores.argmax(-1) != labels
    return {
        "frame_error": 100 * frame_errors.double().mean().item(),
        "sentence_error": 100 * wrong.double().mean().item(),
    }


class SentenceErrors:
    """Scores of windows, put together to decisions about sentences.

    Everything is added up on the device; nothing is read from it before
    :meth:`summarize`.

    Arguments
    ---------
    labels : torch.Tensor
        ``[sentences]``, the true speaker of each.
    empty_row : torch.Tensor, optional
        ``[sentences]``, bool: sentences with one more row of zeros, decided
        for speaker 0, as the released evaluation has it.

    Example
    -------
    >>> errors = SentenceErrors(torch.tensor([0, 1]))
    >>> scores = torch.tensor([[-0.1, -2.0], [-1.0, -0.2], [-1.0, -0.9]])
    >>> errors.append(torch.tensor([0, 0, 1]), scores)
    >>> errors.summarize()
    {'frame_error': 25.0, 'sentence_error': 0.0}
    """

    def __init__(self, labels, empty_row=None):
        self.labels = labels
        self.empty_row = empty_row
        self.rows = torch.zeros_like(labels)
        self.wrong = torch.zeros_like(labels)
        # Speaker 0, until append() says how many there are.
        self._sums = labels.new_zeros(len(labels), 1)

    def to(self, device):
        """Move to a device, in place.

        Arguments
        ---------
        device : torch.device or str
            Where the scores come from.

        Returns
        -------
        SentenceErrors
            Itself.
        """
        for name in ("labels", "empty_row", "rows", "wrong", "_sums"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor.to(device))
        return self

    @property
    def scores(self):
        """Sums of the scores, ``[sentences, speakers]``, float32."""
        return (self._sums.double() * RESOLUTION).float()

    def append(self, sentence, scores):
        """Add the scores of windows.

        Arguments
        ---------
        sentence : torch.Tensor
            ``[windows]``, which sentence each belongs to.
        scores : torch.Tensor
            ``[windows, speakers]`` or ``[windows, 1, speakers]``, such that
            they may be added over windows (log-posteriors).
        """
        scores = scores.flatten(0, -2)
        self._widen(scores.shape[-1])
        wrong = scores.argmax(-1) != self.labels[sentence]
        exact = scores.double().nan_to_num(nan=-LIMIT).clamp(-LIMIT, LIMIT)
        exact = (exact / RESOLUTION).round().long()
        self._sums.index_add_(0, sentence, exact)
        self.rows.index_add_(0, sentence, torch.ones_like(sentence))
        self.wrong.index_add_(0, sentence, wrong.long())

    def reduce(self):
        """Put together what several processes have scored.

        Each calls it once, when it is done with its windows; afterwards each
        has the result of all of them.

        Returns
        -------
        SentenceErrors
            Itself.
        """
        if world_size() > 1:
            speakers = torch.tensor(
                self._sums.shape[-1], device=self._sums.device
            )
            dist.all_reduce(speakers, op=dist.ReduceOp.MAX)
            self._widen(int(speakers))
            for tensor in (self.rows, self.wrong, self._sums):
                add_over_ranks(tensor)
        return self

    def _widen(self, speakers):
        if self._sums.shape[-1] < speakers:
            self._sums = self.labels.new_zeros(len(self.labels), speakers)

    def _frame_errors(self):
        """Fraction of wrong rows ``[sentences]``, and which have any."""
        rows, wrong = self.rows, self.wrong
        if self.empty_row is not None:
            rows = rows + self.empty_row
            wrong = wrong + (self.empty_row & (self.labels != 0))
        return wrong / rows.clamp(min=1), rows > 0

    def summarize(self, field=None):
        """Errors over all sentences that have been scored.

        Arguments
        ---------
        field : str, optional
            Return this one alone.

        Returns
        -------
        dict or float
            See :func:`error_summary`.
        """
        frame_errors, scored = self._frame_errors()
        summary = error_summary(
            frame_errors[scored], self._sums[scored], self.labels[scored]
        )
        return summary if field is None else summary[field]

    def write_csv(self, path, ids, names):
        """Write one line a sentence.

        Columns: sentence, speaker, decision, score (the mean log-posterior
        of the decision over the windows), margin (how far the runner-up is
        behind), frame_error (in per cent).

        Arguments
        ---------
        path : str or Path
            Where to.
        ids : list of str
            Names of the sentences.
        names : list of str
            Names of the speakers.
        """
        frame_errors, scored = self._frame_errors()
        mean = self.scores / self.rows.clamp(min=1)[:, None]
        # Stable: a sentence of nothing but zeros is decided for speaker 0.
        best, order = mean.sort(dim=-1, descending=True, stable=True)
        runner_up = best[:, min(1, best.shape[-1] - 1)]
        table = zip(
            ids,
            scored.tolist(),
            self.labels.tolist(),
            order[:, 0].tolist(),
            best[:, 0].tolist(),
            (best[:, 0] - runner_up).tolist(),
            (100 * frame_errors).tolist(),
        )
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["sentence", "speaker", "decision", "score", "margin"]
                + ["frame_error"]
            )
            for name, has, label, decision, score, margin, error in table:
                if has:
                    writer.writerow(
                        [name, names[label], names[decision]]
                        + [f"{score:.4f}", f"{margin:.4f}", f"{error:.3f}"]
                    )

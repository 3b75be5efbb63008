"""Frame error and sentence error, the two figures of the paper."""

import csv

import torch
import torch.distributed as dist

from amsincnet_sb.training.distributed import add_over_ranks, world_size
from amsincnet_sb.utils.files import atomic_write, spreadsheet_cell

__all__ = ["SentenceErrors", "error_summary"]

# Log-posteriors are summed as integer multiples of this, so that the sums are
# the same in any order: on a GPU, and over ranks.
RESOLUTION = 2.0**-32
LIMIT = 1e5  # of a log-posterior; an utterance may have 20 000 windows


def error_summary(frame_errors, scores, labels):
    """Frame error and sentence error of a set of utterances, in per cent.

    ``frame_errors`` ``[utterances]`` are fractions of wrong windows,
    ``scores`` ``[utterances, speakers]`` sums or means of log-posteriors over
    windows, ``labels`` ``[utterances]`` the true ones. The sentence error
    counts utterances in which another speaker scores best.
    """
    wrong = scores.argmax(-1) != labels
    return {
        "frame_error": 100 * frame_errors.double().mean().item(),
        "sentence_error": 100 * wrong.double().mean().item(),
    }


class SentenceErrors:
    """Sums log-posteriors over windows and decides for each utterance.

    Everything is summed on the device, in integers; nothing is read from it
    before :meth:`summarize`. ``labels`` ``[utterances]`` are the true ones.
    ``empty_row`` ``[utterances]``, bool, marks those with one more window of
    zeros, decided for label 0, as in the authors' evaluation.

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
        self._wrong = torch.zeros_like(labels)
        # One speaker, until append() tells how many there are.
        self._sums = labels.new_zeros(len(labels), 1)

    def to(self, device):
        """Move to the device of the log-posteriors, in place."""
        for name in ("labels", "empty_row", "rows", "_wrong", "_sums"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor.to(device))
        return self

    @property
    def scores(self):
        """Sums over windows, ``[utterances, speakers]``, float32."""
        return (self._sums.double() * RESOLUTION).float()

    def append(self, utterance, scores):
        """Add the log-posteriors of windows, ``[windows, (1,) speakers]``.

        ``utterance`` ``[windows]`` has the index of the utterance of each.
        """
        scores = scores.flatten(0, -2)
        self._widen(scores.shape[-1])
        wrong = scores.argmax(-1) != self.labels[utterance]
        exact = scores.double().nan_to_num(nan=-LIMIT).clamp(-LIMIT, LIMIT)
        exact = (exact / RESOLUTION).round().long()
        self._sums.index_add_(0, utterance, exact)
        self.rows.index_add_(0, utterance, torch.ones_like(utterance))
        self._wrong.index_add_(0, utterance, wrong.long())

    def reduce(self):
        """Sum over ranks, each of which calls this once, after its windows."""
        if world_size() > 1:
            speakers = torch.tensor(
                self._sums.shape[-1], device=self._sums.device
            )
            dist.all_reduce(speakers, op=dist.ReduceOp.MAX)
            self._widen(int(speakers))
            for tensor in (self.rows, self._wrong, self._sums):
                add_over_ranks(tensor)
        return self

    def _widen(self, speakers):
        if self._sums.shape[-1] < speakers:
            self._sums = self.labels.new_zeros(len(self.labels), speakers)

    def _frame_errors(self):
        """Fraction of wrong windows, and which utterances have any."""
        windows, wrong = self.rows, self._wrong
        if self.empty_row is not None:
            windows = windows + self.empty_row
            wrong = wrong + (self.empty_row & (self.labels != 0))
        return wrong / windows.clamp(min=1), windows > 0

    def summarize(self):
        """Errors over all utterances scored; see :func:`error_summary`."""
        frame_errors, scored = self._frame_errors()
        return error_summary(
            frame_errors[scored], self._sums[scored], self.labels[scored]
        )

    def write_csv(self, path, ids, names):
        """Write one line per utterance, with their ids and speakers' names.

        Columns: sentence (its id), speaker, decision, score (the mean
        log-posterior of the decision), margin (how far the runner-up is
        behind), frame_error (in per cent).
        """
        frame_errors, scored = self._frame_errors()
        mean = self.scores / self.rows.clamp(min=1)[:, None]
        # Stable: an utterance of nothing but zeros is decided for label 0.
        best, order = mean.sort(dim=-1, descending=True, stable=True)
        runner_up = best[:, min(1, best.shape[-1] - 1)]
        columns = (
            scored,
            self.labels,
            order[:, 0],
            best[:, 0],
            best[:, 0] - runner_up,
            100 * frame_errors,
        )
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["sentence", "speaker", "decision", "score", "margin"]
                + ["frame_error"]
            )
            for name, has, label, decision, score, margin, error in zip(
                ids, *(column.tolist() for column in columns)
            ):
                if has:
                    text = name, names[label], names[decision]
                    writer.writerow(
                        [*map(spreadsheet_cell, text)]
                        + [f"{score:.4f}", f"{margin:.4f}", f"{error:.3f}"]
                    )

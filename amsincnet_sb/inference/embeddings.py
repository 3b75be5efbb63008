"""d-vectors in files that other programs read."""

import csv
import os

import numpy as np

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["write_embeddings"]


def write_embeddings(path, files, embeddings):
    """Write d-vectors, whole or not at all.

    Arguments
    ---------
    path : str or Path
        ``*.npz``: the arrays ``files`` (text) and ``embeddings`` (float32
        ``[files, embedding_size]``), without pickles. ``*.csv``: the column
        ``file``, then one a number.
    files : list of str
        What the d-vectors belong to.
    embeddings : torch.Tensor
        ``[files, embedding_size]``.

    Raises
    ------
    InputError
        For another suffix, or if the file cannot be written.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "d.npz"
    >>> write_embeddings(path, ["a.wav"], torch.ones(1, 4))
    >>> np.load(path)["embeddings"].shape
    (1, 4)
    """
    suffix = os.path.splitext(path)[1]
    values = embeddings.numpy()
    if suffix == ".npz":
        with atomic_write(path, "wb") as file:
            np.savez(file, files=np.array(files), embeddings=values)
    elif suffix == ".csv":
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", *range(values.shape[1])])
            for name, row in zip(files, values):
                # Nine digits bring every float32 back.
                writer.writerow([name, *(f"{value:.9g}" for value in row)])
    else:
        raise InputError(f"{path} must end with .npz or .csv.")

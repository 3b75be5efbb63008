"""The file of the speakers' labels, in the format of SpeechBrain."""

import os

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["keep_labels", "label_file"]


def label_file(speakers):
    """The text that a CategoricalEncoder loads, whatever the names.

    Its own ``save`` leaves the separator in a name as it is, so that a speaker
    called ``x => y`` cannot be loaded; here an escape stands for it.

    Example
    -------
    >>> print(label_file(["ann", "x => y"]), end="")
    'ann' => 0
    'x \\x3d> y' => 1
    ================
    'starting_index' => 0
    """
    names = [repr(name).replace("=>", "\\x3d>") for name in speakers]
    lines = [f"{name} => {index}" for index, name in enumerate(names)]
    return "\n".join([*lines, "=" * 16, "'starting_index' => 0\n"])


def keep_labels(path, label_encoder, resumed):
    """Write the speakers' labels; refuse a resumed run of other speakers.

    Arguments
    ---------
    path : str
        The file, in a run's folder.
    label_encoder : CategoricalEncoder
        Of the training manifest.
    resumed : bool
        Whether the folder has checkpoints.
    """
    if resumed and os.path.exists(path):
        try:
            known = type(label_encoder).from_saved(path)
        except (ValueError, SyntaxError, LookupError, OSError) as error:
            raise InputError(
                f"{path} is damaged; move it away, and the run goes on with "
                "the speakers of its training manifest."
            ) from error
        if known.lab2ind != label_encoder.lab2ind:
            raise InputError(
                f"{path} is of a run on other speakers; give another "
                "--output_folder."
            )
        return
    with atomic_write(path) as file:
        file.write(label_file(label_encoder.lab2ind))

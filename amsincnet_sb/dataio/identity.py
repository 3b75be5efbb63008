"""What a list of utterances is, wherever its recordings lie."""

import hashlib
import os
import zlib
from pathlib import Path

__all__ = ["describe_list"]

PROBED = 2000  # recordings of a list that are looked into
BLOCK = 4096  # bytes at the start, in the middle and at the end of each


def describe_list(path, rows, data_folder):
    """Describe a manifest and its recordings such that others differ.

    Paths in a manifest are relative, so that a corpus may be moved. Of at most
    2000 recordings, evenly spread, the size and three blocks are looked at.

    Arguments
    ---------
    path : str or Path
        The manifest.
    rows : list of Utterance
        What :func:`amsincnet_sb.dataio.manifest.read_manifest` makes of it.
    data_folder : str or Path
        What the paths in it are relative to.

    Returns
    -------
    dict
        ``utterances`` and ``speakers`` (counts), and hashes: ``names`` of the
        speakers in order, ``rows`` of the manifest, ``recordings``.
    """
    names = list(dict.fromkeys(row.spk_id for row in rows))
    wavs = sorted({row.wav for row in rows})
    probes = (_probe(Path(data_folder, w)) for w in _spread(wavs))
    return {
        "utterances": len(rows),
        "speakers": len(names),
        "names": _hash(repr(names).encode()),
        "rows": _hash(Path(path).read_bytes()),
        "recordings": _hash(repr([*probes]).encode()),
    }


def _spread(items):
    step = max(1, -(-len(items) // PROBED))
    return items[::step]


def _probe(path):
    """The size of a file and the CRC of its blocks; None if unreadable."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            crc = 0
            for place in (0, size // 2, max(0, size - BLOCK)):
                file.seek(place)
                crc = zlib.crc32(file.read(BLOCK), crc)
    except OSError:
        return None
    return size, crc


def _hash(content):
    return hashlib.sha256(content).hexdigest()[:16]

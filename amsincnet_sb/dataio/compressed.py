"""Compressed files that libsndfile takes for shorter than they are."""

import os

__all__ = ["ends_within_page"]

LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page


def ends_within_page(path):
    """Whether an Ogg file breaks off in a page, which is left out silently."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - LARGEST_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    whole = 27  # its header, with the number of sizes that follow
    if len(page) >= whole:
        whole += page[26] + sum(page[27 : 27 + page[26]])
    return len(page) < whole

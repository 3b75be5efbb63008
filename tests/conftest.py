"""What tests of files from strangers share."""

import os
import pickle

import pytest
from strangers import Call


@pytest.fixture
def canary(tmp_path):
    """A file that the code in a pickle would make, and must not."""
    path = tmp_path / "canary"
    # It works where nobody is careful.
    pickle.loads(pickle.dumps(Call(open, os.fspath(path), "w"))).close()
    assert path.exists()
    path.unlink()
    yield os.fspath(path)
    assert not path.exists()

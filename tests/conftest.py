"""What all tests share: Ctrl-C arrives, and files from strangers."""

import os
import pickle
import signal

import pytest
from strangers import Call

# In a shell's background Ctrl-C is ignored, and by all that is started there.
signal.signal(signal.SIGINT, signal.default_int_handler)


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

"""Processes that train together on this machine, as torchrun starts them."""

import os
import socket
import subprocess
import sys


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(*command, cwd=None, **variables):
    """A Python process with this one's path and these variables."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={
            **inherited,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            **variables,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(*command, cwd=None):
    """The two ranks of a group."""
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        start(*command, cwd=cwd, RANK=rank, LOCAL_RANK=rank, **common)
        for rank in ("0", "1")
    ]

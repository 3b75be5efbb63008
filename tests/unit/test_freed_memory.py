"""Memory that was freed is used again."""

import os
import subprocess
import sys

import pytest

# Pages that the system has to give for blocks which were there before.
COUNT = """
import resource
import torch
{load}

def work():
    kept = []
    for _ in range(24):
        kept.append(torch.ones(8 * 2**20, dtype=torch.uint8))

for _ in range(4):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(after - before)
"""
LOAD = "from amsincnet_sb.kernels import cpu"
WITH_GLIBC = os.confstr_names and "CS_GNU_LIBC_VERSION" in os.confstr_names


def faults(load, **environment):
    """Of a process, with what else its environment has."""
    result = subprocess.run(
        [sys.executable, "-c", COUNT.format(load=load)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(not WITH_GLIBC, reason="needs glibc")
def test_the_system_is_not_asked_again():
    """Of 192 MiB; without, it gives all 49152 pages once more."""
    assert faults("") > 40_000
    assert faults(LOAD) < 10_000


@pytest.mark.skipif(not WITH_GLIBC, reason="needs glibc")
@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"},
    ],
)
def test_the_environment_has_the_last_word(environment):
    assert faults(LOAD, **environment) > 40_000

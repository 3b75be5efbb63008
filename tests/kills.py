"""A process that is killed at one of its operations on files."""

import os
import signal
import sys


def killed(at, work, operations=("os.", "shutil.", "tempfile.")):
    """Kill a process before its at-th operation; False if it had ended."""
    child = os.fork()
    if not child:
        left = [at]

        def hook(event, _):
            if event.startswith(operations):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0

"""Work in a process of its own, that may be killed on the way."""

import os
import signal
import sys
import traceback


def forked(work):
    """Start a copy of this process, which ends with the work, however that
    ends: it must not go on with the tests. Returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def killed(at, work, operations=("os.", "shutil.", "tempfile.")):
    """Kill a process before its at-th operation; False if it had ended."""

    def counted():
        left = [at]

        def hook(event, _):
            if event.startswith(operations):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()

    status = os.waitstatus_to_exitcode(os.waitpid(forked(counted), 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0

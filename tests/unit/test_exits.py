"""How programs end: a sentence and a status, whatever happens to them."""

import subprocess
import sys

import pytest

from amsincnet_sb.utils.errors import InputError, exit_on_input_error

PROGRAM = """\
import os, signal, sys
from amsincnet_sb.utils.errors import exit_on_input_error
with exit_on_input_error():
    {}
"""
# As packages do whose parts need not be there.
SWALLOWS = """\
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
"""
FULL = (
    "Error: The standard output cannot be written: No space left on device.\n"
)
# Code, what the shell does with it, status, the end of standard error.
PROCESSES = {
    "a reader that has seen enough": (
        "[print('line' * 99, flush=True) for _ in range(10**5)]",
        "{} | head -c 1; exit ${{PIPESTATUS[0]}}",
        141,
        "",
    ),
    "a reader that is gone at the end": (
        "import time; print('line'); time.sleep(0.3)",
        "{} | true; exit ${{PIPESTATUS[0]}}",
        141,
        "",
    ),
    "another pipe that nobody reads": (
        "a, b = os.pipe(); os.close(a); os.write(b, b'x')",
        "{}",
        2,
        "Error: Reading or writing failed: Broken pipe.\n",
    ),
    "a full disk": ("print('line')", "{} > /dev/full", 2, FULL),
    "a full disk elsewhere": (
        "os.write(os.open('/dev/full', os.O_WRONLY), b'x')",
        "{} > /dev/null",
        2,
        "Error: Reading or writing failed: No space left on device.\n",
    ),
    "a copy": (
        "os.link('none', 'new')",
        "{}",
        2,
        "Error: none, to new: No such file or directory.\n",
    ),
    "a full disk, and help": (
        "print('line'); sys.exit(0)",
        "{} > /dev/full",
        2,
        FULL,
    ),
    "no standard output": (
        "os.mkdir('never')",
        "{} >&-",
        2,
        "Error: The standard output is closed; send it to a file, or to "
        "/dev/null.\n",
    ),
    "no standard error": ("print(open('none'))", "{} 2>&-", 2, ""),
    "Ctrl-C": (
        "os.kill(os.getpid(), signal.SIGINT)",
        "{}",
        130,
        "Interrupted.\n",
    ),
    "Ctrl-C in an import": ("import swallows", "{}", 130, "Interrupted.\n"),
    "a name that is no Unicode": ("print('\\udcff')", "{}", 0, ""),
}


@pytest.mark.parametrize("kind", PROCESSES)
def test_streams_and_signals(tmp_path, kind):
    code, shell, status, complaint = PROCESSES[kind]
    (tmp_path / "program.py").write_text(PROGRAM.format(code))
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    ended = subprocess.run(
        ["bash", "-c", shell.format(f"{sys.executable} program.py")],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (status, complaint)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "error, status, said",
    [
        (InputError("Too short."), 2, "Error: Too short.\n"),
        (PermissionError(13, "No", "a/b"), 2, "Error: a/b: No.\n"),
        (OSError("odd"), 2, "Error: Reading or writing failed: odd.\n"),
        (MemoryError(), 2, "Error: there is not enough memory.\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_one_sentence(capsys, error, status, said):
    with pytest.raises(SystemExit) as stopped, exit_on_input_error():
        raise error
    assert stopped.value.code == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), OSError("debug")])
def test_a_bug_shows_its_traceback(capsys, monkeypatch, error):
    """And has a status that no answer has."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])
    with pytest.raises(SystemExit) as stopped, exit_on_input_error():
        raise error
    assert stopped.value.code == 70
    assert "Traceback" in capsys.readouterr().err

"""Files from strangers: what would execute, and the sentence about a file."""

import pytest

from amsincnet_sb.utils.errors import InputError


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        function, *arguments = self.call
        return function, tuple(arguments)


def refusal(read, *arguments, blamed=None):
    """The one sentence about a file, without its name."""
    with pytest.raises(InputError) as caught:
        read(*arguments)
    start, message = f"{blamed or arguments[0]}: ", str(caught.value)
    assert message.startswith(start)
    reason = message.removeprefix(start)
    assert reason.endswith(".") and "\n" not in reason and ". " not in reason
    return reason

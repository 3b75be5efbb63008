"""What a script of a recipe imports first: the packages that clash most often.

Where their versions do not fit, the script ends here with a sentence.
"""

from amsincnet_sb.utils.errors import exit_on_input_error

with exit_on_input_error():
    import hyperpyyaml  # noqa: F401
    import speechbrain  # noqa: F401
    import torchaudio  # noqa: F401

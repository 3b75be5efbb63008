"""What a trained model is for: naming, verifying and enrolling speakers."""

from amsincnet_sb.inference.identifier import (
    UNKNOWN,
    Analysis,
    Candidate,
    SpeakerIdentifier,
)

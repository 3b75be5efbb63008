"""Identify, verify and enrol speakers with a trained model."""

from amsincnet_sb.inference.identifier import (
    UNKNOWN,
    Analysis,
    Candidate,
    SpeakerIdentifier,
)

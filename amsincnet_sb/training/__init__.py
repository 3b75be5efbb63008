"""Training: SpeechBrain's loop around one captured step."""

"""Overlays, checkpoints, metrics, plots."""

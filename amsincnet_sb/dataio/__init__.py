"""Audio to batches: manifests, resident chunks, windows, demo corpus."""

"""Fast forms of the networks' layers, for CPUs and for GPUs."""

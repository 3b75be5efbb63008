"""Layers and losses; they import torch and nothing else."""

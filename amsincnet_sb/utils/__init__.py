"""Errors and files; imports nothing of the rest of the package."""

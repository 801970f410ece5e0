"""The training loop and the work around it."""

"""The loop: steps, the levels they run at, optimisers, checkpoints, and the run that comes back."""

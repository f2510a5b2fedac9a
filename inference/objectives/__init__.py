"""inference/objectives."""

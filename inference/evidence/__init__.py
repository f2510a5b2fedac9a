"""inference/evidence."""

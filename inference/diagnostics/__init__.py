"""What a fitted pair is worth, and where it loses."""

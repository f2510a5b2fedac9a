"""What tests read of the folders that commands write."""

import numpy as np


def arrays(path):
    """The arrays of an .npz file, which is closed again."""
    with np.load(path) as stored:
        return dict(stored)

"""Reproductions: one figure or table of a paper a file, each with a ``run(budget, out, data_dir)``.

``run`` writes the figure as PNG and ``table.csv``, and returns the table: quantity, published, ours, error, budget.
"""

__all__ = ["NAMES"]

NAMES = {
    "avb-toy": "aevb.reproductions.avb_toy:run",
    "avb-eight-schools": "aevb.reproductions.avb_eight_schools:run",
    "avb-posterior": "aevb.reproductions.avb_posterior:run",
    "avb-mnist": "aevb.reproductions.avb_mnist:run",
}

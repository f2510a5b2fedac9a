"""Write the README's first picture from the demo's folder: the curves, and the manifold of its first run."""

import sys
from pathlib import Path

from matplotlib import image
from matplotlib.figure import Figure


def main(folder: str = "runs/demo", out: str = "docs/demo.png") -> None:
    """Set two of the demo's figures side by side."""
    curves, manifold = (Path(folder) / name for name in ("figures/log_px.png", "sgvb-0/figures/manifold.png"))
    figure = Figure(figsize=(14, 5.2), layout="tight")
    for place, path in enumerate((curves, manifold), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.imshow(image.imread(path), interpolation="lanczos")
        axes.set_axis_off()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])

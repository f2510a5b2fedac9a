"""``aevb sample``: draw datapoints from a run's model."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import new_parser

HELP = "draw datapoints from a fitted model"


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Draw datapoints from a fitted model: an .npz with draws and means, and a picture where data are pictures.",
        "Example: aevb sample runs/first --count 100 --out runs/first/samples.npz",
    )
    words.add_argument("run", type=str, help="a run folder")
    words.add_argument("--count", type=int, default=100, help="datapoints to draw")
    words.add_argument("--seed", type=int, default=0, help="of the draws")
    words.add_argument("--data-dir", type=str, default=None, help="where files are (default: AEVB_DATA)")
    words.add_argument("--out", type=str, default=None, help="the .npz (default: samples.npz in the run folder)")
    return words


def run(args: Namespace) -> int:
    """Draw and write."""
    import numpy as np
    import pandas as pd

    from aevb import figures
    from aevb.commands.evidence_command import dataset_of
    from aevb.inference import load
    from aevb.inference.pairs.predictive import generate

    folder = Path(args.run)
    fitted = load(folder)
    draws, means = generate(fitted.pair, args.count, seed=args.seed)
    out = folder / "samples.npz" if args.out is None else Path(args.out).with_suffix(".npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, draws=draws.cpu().numpy(), means=means.cpu().numpy())
    print(f"written: {out}")
    data = dataset_of(folder, args.data_dir)
    if data.columns:
        pd.DataFrame(draws.cpu().numpy(), columns=list(data.columns)).to_csv(out.with_suffix(".csv"), index=False)
        print(f"written: {out.with_suffix('.csv')}")
    shape = data.image_shape
    if shape is not None:
        columns = max(1, min(10, args.count))
        picture = figures.image_grid(means.cpu(), shape, args.count // columns, columns)
        print(f"written: {figures.save(picture, out.with_suffix('.png'))}")
    return 0

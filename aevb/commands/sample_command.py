"""``aevb sample``: draw datapoints from a run's model."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import dataset_of, new_parser
from aevb.plugins import trusted

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
    import pandas as pd

    from aevb import figures
    from aevb.inference import load
    from aevb.inference.pairs.predictive import generate
    from aevb.run_folder import Folder, RunFolder

    draws, means = generate(load(args.run, trust=trusted()).pair, args.count, seed=args.seed)
    out = RunFolder(args.run).samples if args.out is None else Path(args.out)
    folder, name = Folder(out.parent), out.stem
    print(f"written: {folder.write_arrays(f'{name}.npz', {'draws': draws, 'means': means})}")
    data = dataset_of(Path(args.run), args.data_dir)
    if data.columns:
        table = pd.DataFrame(draws.cpu().numpy(), columns=list(data.columns))
        print(f"written: {folder.write_table(f'{name}.csv', table, index=False)}")
    shape = data.image_shape
    if shape is not None:
        columns = max(1, min(10, args.count))
        picture = figures.image_grid(means.cpu(), shape, args.count // columns, columns)
        print(f"written: {folder.write_figure(f'{name}.png', picture)}")
    return 0

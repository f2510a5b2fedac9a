"""``aevb use``: what a fitted pair is for, beside drawing new data."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import dataset_of, new_parser
from aevb.plugins import trusted

if TYPE_CHECKING:
    from aevb.data import Dataset
    from aevb.inference import Pair
    from aevb.run_folder import Folder

_IN_DEVIATIONS = ", in standard deviations of their columns"
HELP = "reconstruct, infer, impute, traverse, interpolate, manifold, neighbours, probe"


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Use a fitted run on its held-out data: reconstruct them; infer their latents (draws and means); impute "
        "missing pixels; traverse the latents one by one; interpolate between datapoints; draw the manifold of two "
        "latents; find nearest neighbours in latent space; probe how linearly the classes lie there. Each "
        "writes an .npz or a .csv, and a picture where data are pictures.",
        "Example: aevb use runs/first reconstruct --points 20",
    )
    words.add_argument("run", type=str, help="a run folder")
    words.add_argument("what", type=str, help=", ".join(USES))
    words.add_argument("--split", type=str, default="test", help="train, validation or test")
    words.add_argument("--points", type=int, default=10, help="datapoints used")
    words.add_argument("--draws", type=int, default=100, help="posterior draws per datapoint")
    words.add_argument("--steps", type=int, default=10, help="pictures along a line or a latent")
    words.add_argument("--hole", type=str, default="lower", help="pixels to impute: lower (half) or random (half)")
    words.add_argument("--grid", type=str, default="kingma", help="of the manifold: kingma, su or linear")
    words.add_argument("--neighbours", type=int, default=5, help="neighbours a datapoint, among the training data")
    words.add_argument("--seed", type=int, default=0, help="of the draws")
    words.add_argument("--data-dir", type=str, default=None, help="where files are (default: AEVB_DATA)")
    words.add_argument("--out", type=str, default=None, help="a folder (default: uses in the run folder)")
    return words


def run(args: Namespace) -> int:
    """Do it, and say what was written."""
    from aevb.inference import load
    from aevb.run_folder import Folder, RunFolder

    if args.what not in USES:
        raise ValueError(f"unknown use {args.what!r}; known: {', '.join(USES)}.")
    for name, least in (("points", 1), ("draws", 1), ("steps", 2), ("neighbours", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"{name} {getattr(args, name)} must be at least {least}.")
    pair = load(args.run, trust=trusted()).pair
    if pair.guide is None:
        raise ValueError(f"{args.run} has no guide q(z|x), so nothing can be inferred; `aevb sample` needs none.")
    out = RunFolder(args.run).uses if args.out is None else Folder(args.out)
    USES[args.what](args, pair, dataset_of(Path(args.run), args.data_dir), out)
    return 0


def _reconstruct(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    from aevb import figures
    from aevb.inference.pairs.predictive import reconstruct

    rows = _rows(args, data)
    again = reconstruct(pair, rows, seed=args.seed)
    _arrays(out, "reconstruct.npz", data=_first(rows), means=again)
    if data.image_shape is not None:
        _picture(figures.reconstructions(_first(rows), again.cpu(), data.image_shape), out, "reconstruct.png")


def _infer(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import pandas as pd

    from aevb.inference.pairs.predictive import draws, infer

    rows = _rows(args, data)
    means = infer(pair, rows, args.draws, seed=args.seed).cpu()
    _arrays(out, "infer.npz", means=means, **draws(pair, rows, args.draws, seed=args.seed))
    _table(out, "infer.csv", pd.DataFrame(means.numpy()).add_prefix("z"), index_label="point")


def _impute(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import torch

    from aevb import figures
    from aevb.inference.pairs.predictive import imputations
    from aevb.scales import moments

    _one_argument(pair, "impute")
    x = _first(_rows(args, data))
    if args.hole not in ("lower", "random"):
        raise ValueError(f"hole {args.hole!r} must be lower or random.")
    hole = torch.arange(x.shape[-1]).expand_as(x) >= x.shape[-1] // 2
    if args.hole == "random":
        hole = torch.rand(x.shape, generator=torch.Generator().manual_seed(args.seed)) < 0.5
    found = imputations(pair, x.masked_fill(hole, torch.nan), args.draws, seed=args.seed)
    loc, deviation = moments(_first(_rows_of(data.train)))
    baseline = torch.where(hole, loc.to(x), x)
    # The columns of a table have units of their own: errors are pooled in deviations of each column.
    unit = torch.ones(()) if data.image_shape is not None else torch.where(deviation > 0, deviation, 1.0).to(x)
    arrays = {"data": x, "hole": hole, "baseline": baseline, **found._asdict()}
    _arrays(out, "impute.npz", **arrays)
    known = hole & ~x.isnan()  # of an entry that was missing from the start nobody knows the truth
    guesses = {"mean": found.mean, "baseline": baseline, "draw": found.draws[0]}
    errors = {name: _pooled((guess - x) / unit, known) for name, guess in guesses.items()}
    print(
        f"root mean square error of {int(known.sum())} imputed values{'' if unit.dim() == 0 else _IN_DEVIATIONS}: "
        f"{errors['mean']:.4f} by the posterior mean ({args.draws} draws), {errors['baseline']:.4f} by the mean of the "
        f"training data, {errors['draw']:.4f} by one draw"
    )
    print(f"root mean square spread of the draws: {_pooled(found.spread / unit, known):.4f}")
    if not errors["mean"] < errors["baseline"]:
        print("warning: the model imputes no better than the mean of the training data")
    if data.image_shape is not None:
        seen = torch.where(hole, 0.5, x)
        shown = torch.stack([x, seen, found.mean, *found.draws[:2]], 1)[:10]
        grid = shown.movedim(1, 0).reshape(-1, x.shape[-1])
        _picture(figures.image_grid(grid, data.image_shape, shown.shape[1], len(shown)), out, "impute.png")


def _pooled(differences: Any, known: Any) -> float:
    return float(differences[known].square().mean().sqrt())


def _traverse(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import torch

    from aevb import figures
    from aevb.inference.pairs.predictive import traverse

    _one_argument(pair, "traverse")
    values = torch.linspace(-3.0, 3.0, args.steps)
    means = traverse(pair, _first(_rows(args, data))[0], values, seed=args.seed).cpu()
    _arrays(out, "traverse.npz", values=values, means=means)
    if data.image_shape is not None:
        grid = figures.image_grid(means.flatten(0, 1), data.image_shape, len(means), args.steps)
        _picture(grid, out, "traverse.png")


def _interpolate(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import torch

    from aevb import figures
    from aevb.inference.pairs.predictive import interpolate

    _one_argument(pair, "interpolate")
    x = _first(_rows(args, data))
    if len(x) < 2:
        raise ValueError("interpolate goes from a datapoint to the next; give --points 2 or more.")
    lines = [interpolate(pair, a, b, args.steps, seed=args.seed).cpu() for a, b in zip(x[:-1], x[1:], strict=True)]
    _arrays(out, "interpolate.npz", means=torch.stack(lines))
    if data.image_shape is not None:
        grid = figures.image_grid(torch.cat(lines), data.image_shape, len(lines), args.steps)
        _picture(grid, out, "interpolate.png")


def _manifold(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    from aevb import figures
    from aevb.inference.pairs.predictive import decode

    if len(pair.latents) != 1 or pair.latents[0].event_shape != (2,):
        shapes = {site.name: tuple(site.event_shape) for site in pair.latents}
        raise ValueError(f"the manifold is of a pair with one latent of 2 dimensions; this one has {shapes}.")
    if data.image_shape is None:
        raise ValueError(f"{data.name} are no pictures, so there is no manifold of them to draw.")
    figure = figures.manifold(lambda z: decode(pair, z).cpu(), data.image_shape, args.grid)
    _picture(figure, out, f"manifold_{args.grid}.png")


def _neighbours(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import pandas as pd
    import torch

    from aevb import figures
    from aevb.inference.pairs.predictive import infer, nearest_neighbours

    rows = _rows(args, data)
    known, queries = infer(pair, data.train, args.draws, seed=args.seed), infer(pair, rows, args.draws, seed=args.seed)
    found = nearest_neighbours(known, queries, args.neighbours).cpu()
    table = pd.DataFrame(found.numpy()).add_prefix("neighbour")
    print("neighbours are told by their training rows' numbers")
    _table(out, "neighbours.csv", table, index_label="point")
    if data.image_shape is not None:
        near = _first(data.train[found.flatten()]).unflatten(0, found.shape)
        both = torch.cat([_first(rows).unsqueeze(1), near], 1).flatten(0, 1)
        grid = figures.image_grid(both, data.image_shape, len(found), found.shape[1] + 1)
        _picture(grid, out, "neighbours.png")


def _probe(args: Namespace, pair: "Pair", data: "Dataset", out: "Folder") -> None:
    import pandas as pd

    from aevb.inference.pairs.predictive import infer, linear_probe

    labels = data.train_labels, data.test_labels
    if labels[0] is None or labels[1] is None:
        raise ValueError(f"{data.name} has no labels, so there are no classes to probe for.")
    train, test = (infer(pair, part, args.draws, seed=args.seed) for part in (data.train, data.test))
    accuracy = linear_probe(train, labels[0], test, labels[1])
    line = {"accuracy": accuracy, "train_points": len(train), "test_points": len(test), "dimensions": train.shape[1]}
    print(f"linear probe: {100 * accuracy:.1f} % of {len(test)} test labels right, from {train.shape[1]} latents")
    _table(out, "probe.csv", pd.DataFrame([line]), index=False)


USES: dict[str, Callable[[Namespace, "Pair", "Dataset", "Folder"], None]] = {
    "reconstruct": _reconstruct,
    "infer": _infer,
    "impute": _impute,
    "traverse": _traverse,
    "interpolate": _interpolate,
    "manifold": _manifold,
    "neighbours": _neighbours,
    "probe": _probe,
}


def _rows(args: Namespace, data: "Dataset") -> Any:
    from aevb.publish import rows

    return rows(data.part(args.split), args.points)


def _rows_of(part: Any) -> Any:
    """All rows of a part."""
    from aevb.publish import rows

    return rows(part, len(part))


def _first(rows: Any) -> Any:
    """The pixels, where labels or row numbers stand beside them."""
    return rows[0] if isinstance(rows, tuple) else rows


def _one_argument(pair: "Pair", what: str) -> None:
    if len(pair.example) != 1:
        raise ValueError(f"{what} is for pairs that take x alone; this one takes {len(pair.example)} arguments.")


def _arrays(out: "Folder", name: str, **arrays: Any) -> None:
    print(f"written: {out.write_arrays(name, arrays)}")


def _table(out: "Folder", name: str, table: Any, **options: Any) -> None:
    print(f"written: {out.write_table(name, table, **options)}")


def _picture(figure: Any, out: "Folder", name: str) -> None:
    print(f"written: {out.write_figure(name, figure)}")

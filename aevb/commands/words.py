"""The words that several verbs share, and what they mean."""

from argparse import Action
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import SUPPRESS, ArgumentParser, Namespace

from aevb import options, registry
from aevb.data.names import DATASETS
from aevb.options import FLAGS

if TYPE_CHECKING:
    from aevb.build import Recipe
    from aevb.data import Dataset
    from aevb.inference.training.settings import Training

__all__ = [
    "add_block",
    "add_data",
    "add_recipe",
    "add_training",
    "block_options",
    "checked_recipe",
    "dataset_of",
    "file_options",
    "load_dataset",
    "new_parser",
    "options_of",
    "plain",
    "recipe_of",
    "training_of",
]


def new_parser(description: str, epilog: str) -> ArgumentParser:
    """A verb's parser; it raises what is wrong instead of leaving the process."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description, epilog=epilog)
    parser.add_argument(
        "--plugin", action="append", default=[], help="a .py file or module of yours that registers blocks"
    )
    return parser


def add_block(parser: ArgumentParser, flag: str, default: str, note: str = "") -> None:
    """A block by its name, its options, and a page of help that tells them."""
    known = ", ".join(registry.KINDS[FLAGS[flag][0]])
    parser.add_argument(f"--{flag}", type=str, default=default, help=known + note)
    parser.add_argument(f"--{flag}-args", type=dict, default={}, help=f"options of it: --{flag}-args.NAME VALUE")
    parser.add_argument(f"--{flag}.help", action=_Page, metavar="NAME", help="show the options of the one of that name")


class _Page(Action):
    """Show a block's page of help, and leave."""

    def __init__(self, option_strings: list[str], dest: str, metavar: str, help: str, **_: Any) -> None:
        super().__init__(option_strings, SUPPRESS, default=SUPPRESS, metavar=metavar, help=help)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the page of the block that is named."""
        flag = str(option_string).removeprefix("--").removesuffix(".help")
        print(options.describe(flag, str(values)), end="")
        raise SystemExit(0)


def add_data(parser: ArgumentParser) -> None:
    """The data set and where it is."""
    known = ", ".join(DATASETS)
    parser.add_argument("data", type=str, help=f"a data set ({known}) or a path to a .npy, .npz or .csv file")
    parser.add_argument("--variant", type=str, default=None, help="pixels: grey, static or dynamic (binarised)")
    parser.add_argument("--data-dir", type=str, default=None, help="where files are (default: AEVB_DATA)")
    parser.add_argument("--label-column", type=str, default=None, help="column of a .csv file that holds the classes")


def add_recipe(parser: ArgumentParser) -> None:
    """Add the flags that say what the pair is made of."""
    parser.add_argument("--latent-dim", type=int, default=20, help="number of latent dimensions")
    add_block(parser, "model", "auto", note=" (default: what prior and guide imply)")
    parser.add_argument("--label-share", type=float, default=None, help="share of the training labels that is shown")
    parser.add_argument("--missing-share", type=float, default=0.0, help="share of all pixels made missing (NaN)")
    parser.add_argument(
        "--standardize",
        action="store_true",
        help="show the networks every column less its mean, over its deviation; evidence stays per original unit",
    )
    add_block(parser, "prior", "standard-normal")
    add_block(parser, "likelihood", "bernoulli")
    add_block(parser, "guide", "auto", note=" (default: what model and prior imply)")
    add_block(parser, "network", "mlp", note=", for encoder and decoder")
    parser.add_argument("--hidden", type=int, nargs="+", default=[500], help="widths of the hidden layers")
    parser.add_argument("--activation", type=str, default="tanh", help="tanh, relu, elu, softplus, ...")
    parser.add_argument("--init", type=str, default="default", help='"default" (torch) or "paper" (N(0, 0.01))')


def add_training(parser: ArgumentParser) -> None:
    """Add the flags that say how it is trained."""
    parser.add_argument("--parameter-prior", action="store_true", help="N(0, I) on the model's parameters (MAP)")
    parser.add_argument("--optimizer", type=str, default="adam", help=", ".join(registry.OPTIMIZERS))
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--epochs", type=int, default=None, help="passes over the data (100 where no length is given)")
    parser.add_argument("--steps", type=int, default=None, help="batches, in place of epochs")
    parser.add_argument("--samples-seen", type=float, default=None, help="datapoints visited, in place of epochs")
    parser.add_argument("--batch-size", type=int, default=100, help="datapoints a batch")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, batches and draws")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--compile", type=str, default="auto", help="auto, never, graph or full: how a step is run")
    parser.add_argument("--precision", type=str, default="float32", help="of matrix products: float32 or bfloat16")
    parser.add_argument("--clip-norm", type=float, default=None, help="scale the gradient of a loss down to this norm")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def load_dataset(args: Namespace) -> "Dataset":
    """The data set that was asked for."""
    from aevb.data import load

    dataset: Dataset = load(args.data, variant=args.variant, data_dir=args.data_dir, **file_options(args))
    return dataset


def file_options(args: Namespace) -> dict[str, Any]:
    """Collect how a file is read: the column of classes, and whether NaN is kept for a guide that is shown holes."""
    return {
        "label_column": getattr(args, "label_column", None),  # the words of an older run do not have it
        "missing": hasattr(args, "prior") and "holes" in recipe_of(args).beside,
    }


def recipe_of(args: Namespace) -> "Recipe":
    """The recipe that was asked for."""
    from aevb.build import Recipe

    return Recipe(
        latent_dim=args.latent_dim,
        model=getattr(args, "model", "auto"),  # the words of an older run do not have it
        model_args=options_of(getattr(args, "model_args", {})),
        label_share=getattr(args, "label_share", None),
        missing_share=getattr(args, "missing_share", 0.0),
        standardize=getattr(args, "standardize", False),
        prior=args.prior,
        prior_args=options_of(args.prior_args),
        likelihood=args.likelihood,
        likelihood_args=options_of(args.likelihood_args),
        guide=args.guide,
        guide_args=options_of(args.guide_args),
        network=args.network,
        network_args=options_of(args.network_args),
        hidden=tuple(args.hidden),
        activation=args.activation,
        init=args.init,
    )


def checked_recipe(args: Namespace) -> "Recipe":
    """The recipe that was asked for, its blocks' options held to their types before anything is read or built.

    Raises:
        ValueError: A block is unknown, or an option of one is unknown or of another type.
    """
    from dataclasses import replace

    recipe = recipe_of(args)
    return replace(
        recipe,
        model_args=block_options(args, "model", recipe.model),
        prior_args=block_options(args, "prior", recipe.prior),
        likelihood_args=block_options(args, "likelihood", recipe.likelihood),
        guide_args=block_options(args, "guide", recipe.guide),
        network_args=block_options(args, "network", recipe.network),
    )


def block_options(args: Namespace, flag: str, name: str) -> dict[str, Any]:
    """The options that were asked for of a block, typed."""
    said = getattr(args, f"{flag}_args")
    return options.typed(flag, name, vars(said) if isinstance(said, Namespace) else said)


def training_of(args: Namespace) -> "Training":
    """The settings of training that were asked for."""
    from dataclasses import fields

    from aevb.build import build_optimizer
    from aevb.inference.training.settings import Training

    said = {field.name: getattr(args, field.name) for field in fields(Training) if hasattr(args, field.name)}
    return Training(**said | {"optimizer": build_optimizer(args.optimizer, args.lr), "progress": not args.quiet})


def dataset_of(folder: Path, data_dir: str | None) -> "Dataset":
    """The data set a run folder was fitted to, by the words in its ``config.json``."""
    from aevb.build import dress
    from aevb.data import load
    from aevb.run_folder import RunFolder

    command = RunFolder(folder).config().get("command", {})
    if "data" not in command:
        raise ValueError(f"{folder} was not written by `aevb fit`, so it names no data set; use Python's log_evidence.")
    words = Namespace(**command)
    folder_of_files = data_dir or command.get("data_dir")
    data = load(command["data"], variant=command.get("variant"), data_dir=folder_of_files, **file_options(words))
    # What stands beside the pixels: labels, row numbers, holes.
    return dress(data, recipe_of(words)) if "prior" in command else data


def plain(value: Any) -> Any:
    """A parsed namespace as JSON."""
    if isinstance(value, Namespace):
        return {name: plain(part) for name, part in vars(value).items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def options_of(value: Any) -> dict[str, Any]:
    """The options of a block: words typed as ``--prior-args.NAME VALUE``, read as YAML scalars or lists."""
    typed = vars(value) if isinstance(value, Namespace) else dict(value or {})
    return {name: _read(name, word) if isinstance(word, str) else word for name, word in typed.items()}


def _read(name: str, word: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise ValueError(f"option {name}: expected a number, a word or a list of them, got {word!r}.") from error

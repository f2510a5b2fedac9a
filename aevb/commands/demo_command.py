"""``aevb demo``: the project's main job in a few minutes, on real digits that need no download."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.comparing import compare_and_tell, comparison_parser
from aevb.commands.words import new_parser

HELP = "compare AEVB, wake-sleep and Monte Carlo EM on 1,797 handwritten digits"

# Black and white pixels: a Bernoulli is a probability of those alone. Two latents: the manifold can be drawn, and
# log p(x) can be had by quadrature for the curve.
_WORDS: Sequence[str] = (
    *("digits", "--variant", "static", "--latent-dim", "2", "--hidden", "200"),
    *("--objectives", "sgvb", "wake-sleep", "mcem", "--epochs", "300", "--lr", "3e-3"),
)


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Train the same generative model of scikit-learn's handwritten digits with AEVB (SGVB), wake-sleep and Monte "
        "Carlo EM, estimate the marginal likelihood of held-out digits, and write a page of curves and pictures.",
        "The same by hand: aevb compare " + " ".join(_WORDS) + " --out runs/demo",
    )
    words.add_argument("--out", type=str, default="runs/demo", help="the comparison folder")
    return words


def run(args: Namespace) -> int:
    """Compare on digits."""
    compare_and_tell(comparison_parser().parse_args([*_WORDS, "--out", args.out]))
    return 0

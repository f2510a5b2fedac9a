"""Data sets by name or by path, each with its variant and a fixed split."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aevb.data.names import DATASETS, DEFAULT_VARIANT, VARIANTS

if TYPE_CHECKING:
    from aevb.data.dataset import DataError, Dataset, DynamicBinarisation

__all__ = ["DATASETS", "DEFAULT_VARIANT", "VARIANTS", "DataError", "Dataset", "DynamicBinarisation", "load"]


def load(
    name: str,
    *,
    variant: str | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    label_column: str | None = None,
    missing: bool = False,
) -> "Dataset":
    """Load a data set by its name (see :data:`DATASETS`) or by a path to a .npy, .npz or .csv file.

    Arguments:
        name: the name or the path.
        variant: for pictures ``grey`` (pixels in [0, 1]), ``static`` (binarised once) or ``dynamic``
            (training pixels binarised afresh at each look-up, the other parts once). None means ``grey`` for
            digits and the Frey faces, ``dynamic`` for MNIST and Fashion-MNIST, a file's numbers as they are.
        data_dir: where files are, in torchvision's layout (``MNIST/raw``, ``FashionMNIST/raw``) and
            ``frey_face/frey_rawface.mat``; None means the environment variable AEVB_DATA, then ``~/.cache/aevb``.
        seed: draws the binarisation of static data, and the split of a file. The named splits do not depend on it.
        label_column: the column of a .csv file that holds the classes, by its name (its number where there is no header
            line); it is taken out of the data.
        missing: keep NaN in a file as missing entries, for a pair that masks them, in place of refusing it.

    Raises:
        DataError: if the name or the variant is unknown, or the data cannot be had or used.

    Example:
        >>> digits = load("digits")
        >>> digits.train.shape, digits.image_shape, digits.variant
        (torch.Size([1437, 64]), (1, 8, 8), 'grey')
    """
    from aevb.data.files import SUFFIXES, load_file

    if Path(name).suffix.lower() in SUFFIXES:
        _check_variant(name, variant, ("grey", "static", "dynamic"))
        return load_file(Path(name).expanduser(), variant, seed, label_column=label_column, missing=missing)
    if label_column is not None:
        raise _data_error(f"label_column={label_column!r} is for .csv files; {name} has the labels it has.")
    if name not in DATASETS:
        raise _data_error(
            f"data set: expected one of {', '.join(DATASETS)}, or a path to a {', '.join(SUFFIXES)} file, got {name!r}."
        )
    _check_variant(name, variant, VARIANTS[name])
    return _load_named(name, variant or DEFAULT_VARIANT[name], data_dir, seed)


def _load_named(name: str, variant: str | None, data_dir: str | Path | None, seed: int) -> "Dataset":
    from aevb.data import images, small

    match name:
        case "digits":
            return images.load_digits(variant, seed)
        case "frey-face":
            return images.load_frey_face(variant, data_dir, seed)
        case "toy-patterns":
            return small.toy_patterns()
        case "eight-schools":
            return small.eight_schools(variant)
    return images.load_mnist(name, variant, data_dir, seed)


def _check_variant(name: str, variant: str | None, known: tuple[str, ...]) -> None:
    if variant is not None and variant not in known:
        expected = f"one of {', '.join(known)}" if known else "none"
        raise _data_error(f"variant of {name}: expected {expected}, got {variant!r}.")


def _data_error(message: str) -> ValueError:
    from aevb.data.dataset import DataError

    return DataError(message)


def __getattr__(name: str) -> Any:
    """Load the classes when first asked for, so that the list of names costs no PyTorch."""
    if name in ("DataError", "Dataset", "DynamicBinarisation"):
        from aevb.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

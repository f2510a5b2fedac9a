"""The data sets by name, one line each; reading this module does not load PyTorch."""

__all__ = ["DATASETS", "DEFAULT_VARIANT", "VARIANTS"]

DATASETS: dict[str, str] = {
    "digits": "scikit-learn's 1797 handwritten digits, 8 x 8 pixels; nothing to download.",
    "mnist": "70,000 handwritten digits, 28 x 28 pixels (torchvision).",
    "fashion-mnist": "70,000 pictures of clothes, 28 x 28 pixels (torchvision).",
    "frey-face": "1965 frames of one face, 28 x 20 grey pixels (frey_rawface.mat).",
    "toy-patterns": "The four 2 x 2 images with one pixel lit, equally likely; log p(x) is at best -log 4.",
    "eight-schools": "Effects and standard errors of coaching in eight schools, one datapoint (y, sigma).",
}

_IMAGE_VARIANTS = ("grey", "static", "dynamic")

VARIANTS: dict[str, tuple[str, ...]] = {
    "digits": _IMAGE_VARIANTS,
    "mnist": _IMAGE_VARIANTS,
    "fashion-mnist": _IMAGE_VARIANTS,
    "frey-face": _IMAGE_VARIANTS,
    "toy-patterns": (),
    "eight-schools": ("avb", "textbook"),
}

DEFAULT_VARIANT: dict[str, str | None] = {
    "digits": "grey",
    "mnist": "dynamic",
    "fashion-mnist": "dynamic",
    "frey-face": "grey",
    "toy-patterns": None,
    "eight-schools": "avb",
}

"""Images of handwritten digits: the 10,000 test images of MNIST, split once more."""

import gzip
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expressway._errors import InputError
from expressway._types import Float, Int

from .folder import data_folder

_IMAGES = "mnist_t10k-images-idx3-ubyte.gz"
_LABELS = "mnist_t10k-labels-idx1-ubyte.gz"
# The third byte of an idx file says of which type its numbers are: unsigned bytes.
_BYTES = 0x08


class Mnist(NamedTuple):
    """Images, what they show, and which are for training."""

    images: Float[np.ndarray, "n h w"]
    """float32, from 0 (paper) to 1 (ink); 28 rows of 28 pixels."""
    labels: Int[np.ndarray, "n"]
    """The digits, 0 to 9."""
    train: Int[np.ndarray, "a"]
    """Which images to train with, in random order."""
    test: Int[np.ndarray, "b"]
    """The others."""


def mnist(train: float = 0.8, *, seed: int = 0) -> Mnist:
    """The 10,000 test images of MNIST, split at random into 8,000 and 2,000.

    They are read from the folder that the environment variable ``EXPRESSWAY_DATA`` names, else
    from ``../shared/data``; nothing is downloaded.

    Parameters
    ----------
    train
        Share of the images to train with.
    seed
        Of the split: the same seed, the same split.

    Raises
    ------
    InputError
        A file is not there, or is not what its name says; train is not between 0 and 1.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998), Proceedings of the IEEE 86, 2278-2324.
    """
    folder = _folder()
    images, labels = _read(folder / _IMAGES, 3), _read(folder / _LABELS, 1)
    n = len(images)
    if len(labels) != n:
        msg = f"{folder} holds {n} images and {len(labels)} labels; it needs one label an image"
        raise InputError(msg)
    first = round(train * n)
    if not 0 < first < n:
        msg = f"train is {train}; it must be a share between 0 and 1, such as 0.8"
        raise InputError(msg)
    order = np.random.default_rng(seed).permutation(n)
    return Mnist(
        images.astype(np.float32) / np.float32(255),
        labels.astype(np.int64),
        order[:first],
        order[first:],
    )


def _folder() -> Path:
    """The folder that holds both files; `InputError` where there is none."""
    folder = data_folder()
    if folder and all((folder / name).is_file() for name in (_IMAGES, _LABELS)):
        return folder
    named = os.environ.get("EXPRESSWAY_DATA")
    looked = folder or (f"{named} or " if named else "") + str(Path("..", "shared", "data"))
    msg = (
        f"no MNIST images in {looked}: {_IMAGES} and {_LABELS} are needed; set the environment "
        "variable EXPRESSWAY_DATA to the folder that holds them"
    )
    raise InputError(msg)


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The array of a compressed idx file: two zeros, type, dimensions, sizes, numbers."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        msg = f"cannot read {path}: {error}; it must be a whole gzip file"
        raise InputError(msg) from error
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">u4") if len(content) >= start else np.zeros(1)
    if content[:4] != bytes((0, 0, _BYTES, dimensions)) or len(content) != start + np.prod(
        shape, dtype=np.int64
    ):
        msg = f"{path} is no idx file of bytes in {dimensions} dimensions; get it anew"
        raise InputError(msg)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape.astype(int))

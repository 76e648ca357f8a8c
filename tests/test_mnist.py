import gzip
import shutil

import numpy as np
import pytest

from expressway import datasets
from expressway._errors import InputError

IMAGES = "mnist_t10k-images-idx3-ubyte.gz"
LABELS = "mnist_t10k-labels-idx1-ubyte.gz"


def write(folder, images, labels):
    """Both files, as their format's description has them."""
    for name, array in ((IMAGES, images), (LABELS, labels)):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        head = bytes((0, 0, 8, array.ndim))
        (folder / name).write_bytes(gzip.compress(head + sizes + array.tobytes()))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with ten images of 2 x 3 pixels."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (10, 2, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 10, dtype=np.uint8)
    write(tmp_path, images, labels)
    monkeypatch.setenv("EXPRESSWAY_DATA", str(tmp_path))
    return tmp_path, images, labels


def test_files_are_read_and_split(made):
    _, images, labels = made
    found = datasets.mnist(0.7)
    assert found.images.dtype == np.float32
    np.testing.assert_array_equal(np.round(found.images * 255), images)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    np.testing.assert_array_equal(found.labels, labels)
    assert len(found.train) == 7
    np.testing.assert_array_equal(np.sort(np.concatenate([found.train, found.test])), np.arange(10))
    np.testing.assert_array_equal(datasets.mnist(0.7).train, found.train)
    assert (datasets.mnist(0.7, seed=1).train != found.train).any()


def test_what_is_missing_or_wrong_is_one_line(made):
    folder, images, labels = made
    with pytest.raises(InputError, match=r"train is 1\.0"):
        datasets.mnist(1.0)
    write(folder, images, labels[:9])
    with pytest.raises(InputError, match="10 images and 9 labels"):
        datasets.mnist()
    shutil.copy(folder / IMAGES, folder / LABELS)
    with pytest.raises(InputError, match=f"{LABELS} is no idx file"):
        datasets.mnist()
    (folder / LABELS).write_bytes((folder / IMAGES).read_bytes()[:60])
    with pytest.raises(InputError, match=f"cannot read .*{LABELS}"):
        datasets.mnist()
    (folder / LABELS).unlink()
    with pytest.raises(InputError, match="set the environment variable EXPRESSWAY_DATA") as caught:
        datasets.mnist()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_mnist(data, monkeypatch):
    if not (data / IMAGES).is_file():
        pytest.skip(f"no {IMAGES} in {data}")
    monkeypatch.setenv("EXPRESSWAY_DATA", str(data))
    found = datasets.mnist()
    assert found.images.shape == (10_000, 28, 28)
    assert (len(found.train), len(found.test)) == (8000, 2000)
    # Counts of the ten digits in the published test set.
    count = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(found.labels), count)
    # Digits are centred in their frame: more ink within than at the edge.
    assert found.images[:, 4:24, 4:24].mean() > 10 * found.images[:, :4].mean()

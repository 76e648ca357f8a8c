"""How sure a small convolutional network is of the digits it reads.

    python examples/mnist.py --framework jax --out DIR      # or torch: pip install torch
    python examples/mnist.py --scaling --out DIR            # time against number of parameters

The 10,000 test images of MNIST, in the folder that the environment variable EXPRESSWAY_DATA names,
are split into 8,000 to train with and 2,000 to test. A network of 31,202 parameters is trained on
the objective

    sum of cross entropies + prior precision / 2 |theta|²

in float32 (`network.py`), and is normal around its optimum with the inverse of the Gauss-Newton
matrix of the whole objective as covariance. A hundred draws of all parameters are made, with a
certificate of their error, and predictions from them compared with the plain network's

- *linearised*: outputs change with the parameters along their derivative;
- *pushed through*: the network is run with the parameters of every draw, known to be worse.

It prints each step with its time and writes to DIR: calibration.png (accuracy, log-likelihood and
calibration of the three), uncertain.png (images whose class is least certain), rotated.png (images
turned away from what the network knows). About five minutes on two idle cores, of which training is
two; ``--quick`` takes one with a network that is trained less. ``--scaling`` takes ten to go
from 10,000 parameters to a million, each on 1,000 images, and writes scaling.png and scaling.csv.

The prior precision is that of 1, 3, 10, 30 and 100 with the best log-likelihood on 1,600 of the
training images (``--validate`` repeats it).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mnist_figures as figures
import mnist_scaling
import network
import numpy as np
from scipy import ndimage

import expressway as ew
from expressway.core.prediction import scores

ANGLES = np.arange(0, 181, 15)


class Split(NamedTuple):
    """Images and labels."""

    images: np.ndarray
    labels: np.ndarray


class Model(NamedTuple):
    """A trained network, whatever it is written in."""

    fit: Any
    function: Callable[..., Any] | None
    """Logits of one image; None where the fit knows it."""
    inputs: Callable[[np.ndarray], Any]
    """Images as the function takes them."""


def main(arguments: list[str] | None = None) -> None:
    """Run it."""
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    data = ew.datasets.mnist()
    train, test = (Split(data.images[i], data.labels[i]) for i in (data.train, data.test))
    if options.validate:
        validate(train)
    elif options.scaling:
        first = slice(0, 1000)
        mnist_scaling.run(
            train.images[first], train.labels[first], options.prior_precision, options.out
        )
    else:
        uncertainty(train, test, options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--framework", choices=("jax", "torch"), default="jax", help="of the network")
    add("--out", type=Path, default=Path("mnist"), help="folder to write to")
    add("--prior-precision", type=float, default=3.0, help="of each parameter")
    add("--draws", type=int, default=100, help="how many")
    add("--rtol", type=float, default=1e-2, help="relative error of a draw, at most")
    add("--quick", action="store_true", help="train a fifth as long")
    add("--scaling", action="store_true", help="time against parameters instead")
    add("--validate", action="store_true", help="compare prior precisions instead")
    return parser.parse_args(arguments)


def uncertainty(train: Split, test: Split, options: argparse.Namespace) -> None:
    """Train, draw, predict, compare."""
    short = 5 if options.quick else 1
    made = {"jax": in_jax, "torch": in_torch}[options.framework]
    model = made(train, options.prior_precision, 50 // short, 100 // short)
    key = jax.random.key(1)
    kind = {"kind": "gauss-newton", "rtol": options.rtol}
    draws = timed("draws", lambda: ew.draws(model.fit, key, options.draws, **kind))
    print(f"  {draws}")

    def predict(images: np.ndarray, how: str) -> Any:
        return ew.predict(model.fit, model.function, model.inputs(images), how=how, draws=draws)

    found = {
        name: timed(f"{name} predictions", lambda how=how: predict(test.images, how))
        for name, how in (("linearised draws", "linearised"), ("draws pushed through", "draws"))
    }
    plain = softmax(found["linearised draws"].mean)
    judged = {"plain": scores(plain, test.labels)}
    judged |= {name: scores(p.probabilities, test.labels) for name, p in found.items()}
    print("\n2,000 test images      accuracy  log-likelihood  calibration error")
    for name, s in judged.items():
        numbers = f"{s.accuracy:.4f} {s.log_likelihood:15.4f} {s.expected_calibration_error:18.4f}"
        print(f"{name:24s} {numbers}")
    figures.calibration(judged, options.out / "calibration.png")

    linear = found["linearised draws"]
    figures.uncertain(test.images, test.labels, plain, linear, options.out / "uncertain.png")
    brackets(model, test, linear)
    turned = rotated(test, predict)
    figures.rotated(*turned, options.out / "rotated.png")
    for name in ("calibration", "uncertain", "rotated"):
        print(options.out / f"{name}.png")


def in_jax(train: Split, precision: float, epochs: int, steps: int) -> Model:
    """The network in JAX, trained."""
    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    theta = network.start(jax.random.key(0))
    print(f"{network.count(theta):,} parameters, prior precision {precision:g}")
    theta = timed("Adam", lambda: network.adam(theta, images, labels, precision, epochs=epochs))
    best = timed("L-BFGS", lambda: network.polished(theta, images, labels, precision, steps=steps))
    problem = ew.Objective.supervised(
        network.logits, ew.losses.categorical, (images, labels), prior_precision=precision
    )
    fit = problem.trained(best.theta)
    print(f"  objective {best.objective:.2f}, gradient norm {fit.gradient_norm:.3g}")
    return Model(fit, network.logits, jnp.asarray)


def in_torch(train: Split, precision: float, epochs: int, steps: int) -> Model:
    """The same network in torch, from the same start."""
    import network_torch
    import torch

    inputs = lambda images: torch.tensor(images)[:, None]  # noqa: E731
    images, labels = inputs(train.images), torch.tensor(train.labels)
    theta = network.start(jax.random.key(0))
    net = network_torch.module(theta)
    print(f"{network.count(theta):,} parameters, prior precision {precision:g}, in torch")
    how = {"epochs": epochs, "steps": steps}
    end = timed("training", lambda: network_torch.train(net, images, labels, precision, **how))
    batches = list(zip(images.split(250), labels.split(250), strict=True))
    fit = ew.torch.fit(net, torch.nn.CrossEntropyLoss(), batches, prior_precision=precision)
    print(f"  objective {end:.2f}, gradient norm {fit.gradient_norm:.3g}")
    return Model(fit, None, inputs)


def brackets(model: Model, test: Split, drawn: Any) -> None:
    """Print the variance of a few logits without draws, and that of the draws."""
    few = 5
    found = timed(
        f"bracketed variances of {few} images",
        lambda: ew.predict(
            model.fit,
            model.function,
            model.inputs(test.images[:few]),
            how="linearised",
            kind="gauss-newton",
        ),
    )
    print("  label  logit of it  sd, from  to      sd of draws")
    for i, label in enumerate(test.labels[:few]):
        low, high = np.sqrt([found.variance_lower[i, label], found.variance_upper[i, label]])
        sd = np.sqrt(drawn.variance[i, label])
        print(f"  {label:5d} {found.mean[i, label]:12.3f} {low:9.4f} {high:9.4f} {sd:9.4f}")


def rotated(test: Split, predict: Callable[..., Any], few: int = 200) -> tuple[Any, ...]:
    """Images turned further and further, and for each angle how sure predictions are."""
    images, labels = test.images[:few], test.labels[:few]
    turned = np.stack(
        [ndimage.rotate(images, angle, axes=(2, 1), reshape=False, order=1) for angle in ANGLES]
    )
    every = turned.reshape(-1, *images.shape[1:])
    linear, pushed = (
        timed(f"{len(every):,} rotated images, {how}", lambda how=how: predict(every, how))
        for how in ("linearised", "draws")
    )
    shape = len(ANGLES), few, -1
    each = {
        "plain": softmax(linear.mean).reshape(shape),
        "linearised draws": linear.probabilities.reshape(shape),
        "draws pushed through": pushed.probabilities.reshape(shape),
    }
    spread = linear.probability_sd.reshape(shape)
    print("\nturned   accuracy  " + "  ".join(f"{name:>20s}" for name in each))
    for i in range(0, len(ANGLES), 2):
        right = np.mean(each["plain"][i].argmax(axis=1) == labels)
        sure = "  ".join(f"{p[i].max(axis=1).mean():20.3f}" for p in each.values())
        print(f"{ANGLES[i]:5d}° {right:10.3f}  {sure}")
    return ANGLES, turned, labels, each, spread


def validate(train: Split) -> None:
    """Print how prior precisions do on images that are kept back."""
    first = 4 * len(train.labels) // 5
    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    out = jax.jit(jax.vmap(network.logits, (None, 0)))
    print("precision  accuracy  log-likelihood")
    for precision in (1.0, 3.0, 10.0, 30.0, 100.0):
        part = images[:first], labels[:first]
        theta = network.adam(network.start(jax.random.key(0)), *part, precision, epochs=50)
        theta = network.polished(theta, *part, precision, steps=100).theta
        found = scores(softmax(out(theta, images[first:])), np.asarray(labels[first:]))
        print(f"{precision:9g} {found.accuracy:9.4f} {found.log_likelihood:15.4f}", flush=True)


def softmax(logits: Any) -> np.ndarray:
    """Probabilities."""
    return np.asarray(jax.nn.softmax(jnp.asarray(logits), axis=-1))


def timed(what: str, do: Callable[[], Any]) -> Any:
    """What something gives; prints how long it took."""
    clock = time.perf_counter()
    found = do()
    print(f"{what}: {time.perf_counter() - clock:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    main()

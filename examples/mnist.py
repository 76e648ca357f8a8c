"""How sure a small convolutional network is of the digits it reads.

    python examples/mnist.py --framework jax --out DIR      # or torch: pip install torch
    python examples/mnist.py --scaling --out DIR            # time against number of parameters

The 10,000 test images of MNIST, in the folder that the environment variable EXPRESSWAY_DATA names,
are split into 8,000 to train with and 2,000 to test. A network of 31,202 parameters is trained in
float32 (`network.py`) on

    sum of cross entropies + decay / 2 |theta|²

and its parameters are normal around what is found, with the inverse of A as covariance: A is the
Gauss-Newton matrix of that sum over all 8,000 images plus the prior precision times the identity. A
hundred draws of all parameters are made, each with a certificate of its error, and predictions from
them are compared with those of the plain network:

- *linearised*: outputs change with the parameters along their derivative;
- *pushed through*: the network is run with the parameters of every draw. Draws leave the region
  where its quadratic approximation holds, so that this is worse, the more the wider they are.

It prints each step with its time and writes to DIR: calibration.png (accuracy, log-likelihood and
calibration of the three), uncertain.png (images whose class is least certain), rotated.png (images
turned away from what the network knows). Three and a half minutes on two cores, of which training
is one and a half; ``--quick`` trains a fifth as long and makes 20 draws. ``--scaling`` goes from
10,000 parameters to a million, each on 1,000 images, in three minutes, and writes scaling.png and
scaling.csv.

The two precisions, decay and prior, are not the same. A decay of 3 is best for the plain network. A
prior as wide is far too careful in linearised predictions: most of 31,202 directions are not seen
by the data, and the spread that the prior leaves them adds up in every output. As usual the prior
is chosen afterwards: the widest of 30, 100, 300, 1,000 and 3,000 whose linearised predictions are,
on images kept back, no worse than the plain network's by more than a standard error of that.
``--validate`` shows both choices (6,400 of the training images, judged on 1,600), in ten minutes.
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
        mnist_scaling.run(train.images[first], train.labels[first], options.decay, options.out)
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
    add("--decay", type=float, default=3.0, help="precision of the prior while training")
    add("--prior-precision", type=float, default=1000.0, help="of each parameter, for draws")
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
    model = made(train, options.decay, 50 // short, 100 // short)
    # The objective's own precision is in A without being named.
    how = {"kind": "gauss-newton", "prior_precision": options.prior_precision - options.decay}
    count = options.draws // short
    draws = timed(
        "draws",
        lambda: ew.draws(model.fit, jax.random.key(1), count, rtol=options.rtol, **how),
    )
    print(f"  {draws}")

    def predict(images: np.ndarray, how: str) -> Any:
        return ew.predict(
            model.fit,
            model.function,
            model.inputs(images),
            how,
            draws=draws,
            loss=ew.losses.categorical,
        )

    found = {
        name: timed(f"{name} predictions", lambda how=how: predict(test.images, how))
        for name, how in (("linearised draws", "linearised"), ("draws pushed through", "draws"))
    }
    plain = softmax(found["linearised draws"].mean)
    judged = {"plain": ew.scores(plain, test.labels)}
    judged |= {name: ew.scores(p.probabilities, test.labels) for name, p in found.items()}
    print("\n2,000 test images      accuracy  log-likelihood  calibration error")
    for name, s in judged.items():
        numbers = f"{s.accuracy:.4f} {s.log_likelihood:15.4f} {s.expected_calibration_error:18.4f}"
        print(f"{name:24s} {numbers}")
    figures.calibration(judged, options.out / "calibration.png")

    linear = found["linearised draws"]
    figures.uncertain(test.images, test.labels, plain, linear, options.out / "uncertain.png")
    brackets(model, test, linear, how)
    turned = rotated(test, predict)
    figures.rotated(*turned, options.out / "rotated.png")
    for name in ("calibration", "uncertain", "rotated"):
        print(options.out / f"{name}.png")


def in_jax(train: Split, decay: float, epochs: int, steps: int) -> Model:
    """The network in JAX, trained."""
    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    theta = network.start(jax.random.key(0))
    print(f"{network.count(theta):,} parameters, decay {decay:g}")
    theta = timed("Adam", lambda: network.adam(theta, images, labels, decay, epochs=epochs))
    best = timed("L-BFGS", lambda: network.polished(theta, images, labels, decay, steps=steps))
    problem = ew.Objective.supervised(
        network.logits, ew.losses.categorical, (images, labels), prior_precision=decay
    )
    fit = problem.trained(best.theta)
    print(f"  objective {best.objective:.2f}, gradient norm {fit.gradient_norm:.3g}")
    return Model(fit, network.logits, jnp.asarray)


def in_torch(train: Split, decay: float, epochs: int, steps: int) -> Model:
    """The same network in torch, from the same start."""
    import network_torch
    import torch

    inputs = lambda images: torch.tensor(images)[:, None]  # noqa: E731
    images, labels = inputs(train.images), torch.tensor(train.labels)
    theta = network.start(jax.random.key(0))
    net = network_torch.module(theta)
    print(f"{network.count(theta):,} parameters, decay {decay:g}, in torch")
    how = {"epochs": epochs, "steps": steps}
    end = timed("training", lambda: network_torch.train(net, images, labels, decay, **how))
    batches = list(zip(images.split(250), labels.split(250), strict=True))
    fit = ew.torch.fit(net, torch.nn.CrossEntropyLoss(), batches, prior_precision=decay)
    print(f"  objective {end:.2f}, gradient norm {fit.gradient_norm:.3g}")
    return Model(fit, None, inputs)


def brackets(model: Model, test: Split, drawn: Any, how: dict[str, Any]) -> None:
    """Print the variances of a few logits without draws, and those of the draws."""
    top = drawn.mean.argmax(axis=1)
    few, function = 5, None
    if model.function is None:
        few = 1  # a torch fit has no other outputs than its module's
    else:
        function = lambda theta, image: jnp.max(model.function(theta, image))  # noqa: E731
    found = timed(
        f"bracketed variances of {few} images",
        lambda: ew.predict(
            model.fit, function, model.inputs(test.images[:few]), "linearised", **how
        ),
    )
    print(f"  {found.matvecs} products; certified: {found.certified}")
    print("  label  its logit  sd, from        to  sd of draws")
    for i in range(few):
        k = found.mean[i].argmax()
        low, high = np.sqrt([found.variance_lower[i, k], found.variance_upper[i, k]])
        numbers = f"{found.mean[i, k]:10.3f} {low:9.4f} {high:9.4f}"
        print(f"  {test.labels[i]:5d} {numbers} {np.sqrt(drawn.variance[i, top[i]]):12.4f}")


def rotated(test: Split, predict: Callable[..., Any], few: int = 100) -> tuple[Any, ...]:
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
    """Print how decays and prior precisions do on images that are kept back."""
    first = 4 * len(train.labels) // 5
    part = jnp.asarray(train.images[:first]), jnp.asarray(train.labels[:first])
    images, labels = jnp.asarray(train.images[first:]), train.labels[first:]
    out = jax.jit(jax.vmap(network.logits, (None, 0)))
    kept = {}
    print("decay  accuracy  log-likelihood of the plain network")
    for decay in (1.0, 3.0, 10.0, 30.0):
        theta = network.adam(network.start(jax.random.key(0)), *part, decay, epochs=50)
        kept[decay] = network.polished(theta, *part, decay, steps=100).theta
        found = ew.scores(softmax(out(kept[decay], images)), labels)
        print(f"{decay:5g} {found.accuracy:9.4f} {found.log_likelihood:15.4f}", flush=True)

    decay = 3.0
    problem = ew.Objective.supervised(
        network.logits, ew.losses.categorical, part, prior_precision=decay
    )
    fit = problem.trained(kept[decay])
    each = lambda p: np.log(p[np.arange(len(labels)), labels])  # noqa: E731
    plain = each(softmax(out(fit.theta, images)))
    print("prior precision  log-likelihood less that of the plain network  its standard error")
    for total in (30.0, 100.0, 300.0, 1000.0, 3000.0):
        how = {"kind": "gauss-newton", "rtol": 1e-2, "prior_precision": total - decay}
        draws = ew.draws(fit, jax.random.key(1), 32, **how)
        found = ew.predict(
            fit, network.logits, images, "linearised", draws=draws, loss=ew.losses.categorical
        )
        change = each(found.probabilities) - plain
        error = change.std() / np.sqrt(len(change))
        print(f"{total:15g} {change.mean():47.4f} {error:19.4f}", flush=True)


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

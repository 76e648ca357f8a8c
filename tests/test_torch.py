from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway._errors import InputError

torch = pytest.importorskip(
    "torch",
    reason="ew.torch is not tested without PyTorch: pip install 'torch>=2.4' "
    "--index-url https://download.pytorch.org/whl/cpu",
)

import expressway as ew  # noqa: E402

# PyTorch's own: `torch.func.vmap` loads its decompositions through torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
# Tests share processors, and threads that wait for one another are slow then.
torch.set_num_threads(1)

nn, functional = torch.nn, torch.nn.functional
KEY = jax.random.key(3)
N, C = 11, 3


def images(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(C, (N,), generator=generator)


def network(dtype=torch.float64):
    torch.manual_seed(2)
    layers = [
        ("conv", nn.Conv2d(1, 2, 3)),
        ("tanh", nn.Tanh()),
        ("pool", nn.AvgPool2d(2)),
        ("flat", nn.Flatten()),
        ("out", nn.Linear(8, C)),
    ]
    return nn.Sequential(OrderedDict(layers)).to(dtype)


def in_batches(x, y, size=4):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


def dense(operator):
    eye = np.eye(operator.size, dtype=operator.dtype)
    found = operator.rows(eye)
    assert found.dtype == operator.dtype
    return np.asarray(found)


def slopes(value, parameters):
    """Gradients of each entry of a vector, by plain autograd, one after another."""
    rows = []
    for entry in value.reshape(-1):
        parts = torch.autograd.grad(
            entry, parameters, retain_graph=True, create_graph=True, materialize_grads=True
        )
        rows.append(torch.cat([p.reshape(-1) for p in parts]))
    return torch.stack(rows)


def by_hand(module, loss, x, y):
    """Hessian and Gauss-Newton matrix of the sum over observations, one at a time; scores."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    hessian, gauss_newton, scores = 0.0, 0.0, []
    for n in range(len(y)):
        outputs = module(x[n : n + 1])
        value = loss(outputs, y[n : n + 1])
        score = slopes(value, parameters)[0]
        (inner,) = torch.autograd.grad(value, outputs, create_graph=True)
        bend = torch.stack(
            [
                torch.autograd.grad(u, outputs, retain_graph=True, materialize_grads=True)[0][0]
                for u in inner[0]
            ]
        )
        jacobian = slopes(outputs, parameters)
        gauss_newton += (jacobian.T @ bend @ jacobian).detach().numpy()
        hessian += slopes(score, parameters).detach().numpy()
        scores.append(score.detach().numpy())
    return hessian, gauss_newton, np.stack(scores)


# Sums of 11 terms in another order: some hundred roundings of doubles.
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


@pytest.fixture(scope="module")
def trained():
    """A network, its fit by batches, and what loops over observations give."""
    x, y = images()
    module = network()
    fit = ew.torch.fit(module, nn.CrossEntropyLoss(), in_batches(x, y), prior_precision=0.3)
    return module, fit, by_hand(module, functional.cross_entropy, x, y)


def test_products_are_those_of_loops_over_observations(trained):
    _, fit, (hessian, gauss_newton, scores) = trained
    source, eye = fit.source(), np.eye(len(hessian))
    bare, blunt, fisher = (source.operator(k, 0.2) for k in ("hessian", "gauss-newton", "fisher"))
    np.testing.assert_allclose(dense(bare), hessian + 0.5 * eye, **CLOSE)
    np.testing.assert_allclose(dense(blunt), gauss_newton + 0.5 * eye, **CLOSE)
    np.testing.assert_array_equal(dense(fisher), dense(blunt))
    assert (bare.lower, bare.noise, bare.damping) == (None, None, 0.5)
    assert blunt.lower == fisher.lower == blunt.damping == 0.5
    assert source.operator("fisher", 0.0).bounded(0.1).lower == 0.1
    assert source.observations == N
    assert source.dtype == np.float64
    weights = np.random.default_rng(0).normal(size=(9, N))
    np.testing.assert_allclose(source.scores(weights), weights @ scores, **CLOSE)
    # One product, of a JAX array: never written to, and as `Operator` asks for it.
    v = jnp.arange(len(eye)) / len(eye)
    np.testing.assert_allclose(blunt @ v, gauss_newton @ v + 0.5 * v, **CLOSE)


def test_gradient_is_of_the_sum_and_the_prior(trained):
    module, fit, (_, _, scores) = trained
    theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    wanted = np.linalg.norm(scores.sum(0) + 0.3 * theta)
    assert fit.gradient_norm == pytest.approx(wanted, rel=1e-12)
    assert list(fit.theta) == [name for name, _ in module.named_parameters()]


def noise_covariance(operator, count=1000):
    rows = np.asarray(operator.noise(KEY, count))
    return rows.T @ rows / count


PAIRS = [
    (nn.CrossEntropyLoss(), "integer"),
    (nn.BCEWithLogitsLoss(), "binary"),
    (nn.MSELoss(reduction="sum"), "real"),
    (nn.PoissonNLLLoss(), "count"),
    (nn.SmoothL1Loss(beta=10.0), "real"),  # of matrices of outputs
]


@pytest.mark.parametrize(("loss", "targets"), PAIRS)
def test_noise_has_the_covariance_of_gauss_newton(loss, targets):
    torch.manual_seed(5)
    x = torch.randn(7, 2, dtype=torch.float64)
    y = {
        "integer": torch.tensor([0, 1, 2, 2, -100, 1, 0]),  # one is not counted
        "binary": (torch.rand(7, 3, dtype=torch.float64) > 0.5).double(),
        "real": torch.randn(7, 3, dtype=torch.float64),
        "count": torch.arange(21.0, dtype=torch.float64).reshape(7, 3) % 4,
    }[targets]
    fit = ew.torch.fit(nn.Linear(2, 3).double(), loss, in_batches(x, y), prior_precision=0.1)
    operator = fit.operator("gauss-newton")
    assert operator.lower == 0.1
    wanted = dense(operator)
    # Of 1000 draws an entry is off by sqrt((a_ij^2 + a_ii a_jj) / 1000): five of those.
    scale = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / 1000)
    assert np.abs((noise_covariance(operator) - wanted) / scale).max() < 5.0


def test_losses_are_summed_whatever_their_reduction():
    x, y = images()
    module, batches = network(), in_batches(x, y)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    target = torch.randn(N, C, dtype=torch.float64)

    def mean(z, t):
        return functional.cross_entropy(z, t)

    def total(z, t):
        return functional.cross_entropy(z, t, reduction="sum")

    def single(z, t):
        return functional.cross_entropy(z, t, reduction="none")

    outputs = module(x).detach()
    whole = float(total(outputs, y))
    losses = [nn.CrossEntropyLoss(reduction=r) for r in ("mean", "sum", "none")]
    for loss in (*losses, functional.cross_entropy, mean, total, single):
        for loader in (batches, (x, y)):
            fit = ew.torch.fit(module, loss, loader)
            # Rounding of a sum of 11.
            assert fit.loss == pytest.approx(whole, rel=1e-13)
            assert fit.observations == N
    assert ew.torch.fit(module, mean, batches, reduction="mean").loss == pytest.approx(whole)
    weighted = ew.torch.fit(module, nn.CrossEntropyLoss(weight), batches)
    assert weighted.loss == pytest.approx(float((weight[y] * single(outputs, y)).sum()))
    # Squares of all elements.
    squares = ew.torch.fit(module, nn.MSELoss(), in_batches(x, target))
    assert squares.loss == pytest.approx(float(((outputs - target) ** 2).sum()))


def test_losses_that_are_no_sums_or_have_no_fisher_information_are_refused():
    x, y = images()
    module = network()
    with pytest.raises(InputError, match="reduction is 'sum', but"):
        ew.torch.fit(module, lambda z, t: functional.cross_entropy(z, t), (x, y), reduction="sum")
    with pytest.raises(InputError, match="adds over observations"):
        ew.torch.fit(module, lambda z, t: z.sum() ** 2, (x, y))
    smooth = ew.torch.fit(module, nn.CrossEntropyLoss(label_smoothing=0.1), (x, y))
    with pytest.raises(InputError, match="CrossEntropyLoss, BCEWithLogitsLoss, MSELoss"):
        smooth.operator("fisher")
    with pytest.raises(InputError, match="no curvature"):
        ew.torch.fit(module, nn.NLLLoss(), (x, y)).operator("gauss-newton")
    with pytest.raises(InputError, match="one of hessian"):
        smooth.operator("jacobian")
    # Not convex in the outputs: nothing is known of its spectrum, and it has no root.
    odd = ew.torch.fit(module, lambda z, t: torch.cos(3 * z).sum(), (x, y), prior_precision=1.0)
    operator = odd.operator("gauss-newton")
    assert (operator.lower, operator.noise) == (None, None)


def test_state_dicts_load_back():
    torch.manual_seed(4)
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)
    )
    module.append(nn.Linear(2, 2, bias=False))
    module.append(nn.Linear(2, 2, bias=False))
    module[6].weight = module[5].weight  # two names of one parameter
    module[4].bias.requires_grad_(False)
    x, y = images(torch.float32)
    module(x)  # running means
    y = y % 2
    held = module[4].bias.clone()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fit = ew.torch.fit(module, nn.CrossEntropyLoss(), in_batches(x, y), prior_precision=1.0)
    # The user's module is as it was: in training mode, its running means untouched.
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert "4.bias" not in fit.theta
    assert "6.weight" not in fit.theta
    operator = fit.operator("fisher")
    assert operator.dtype == np.float32
    rows = np.random.default_rng(0).normal(size=(5, operator.size)).astype(np.float32) * 0.1
    draws = fit.shaped(rows)
    other = nn.Sequential(*module).eval()
    other.load_state_dict(fit.state_dict(draws, 3))
    assert torch.equal(other[4].bias, held)
    assert torch.equal(other[5].weight, draws["5.weight"][3])
    with torch.no_grad():
        wanted = other(x).numpy()
    np.testing.assert_array_equal(fit.predictor(x).at(rows)[3], wanted)
    # A copy in eval mode: loops over single observations are the sum, with batch norm.
    module.load_state_dict(before)
    module.eval()
    _, wanted, _ = by_hand(module, functional.cross_entropy, x, y)
    # Single precision: 1e-6 of the largest.
    np.testing.assert_allclose(
        dense(operator), wanted + np.eye(operator.size), atol=1e-6 * np.abs(wanted).max() + 1e-6
    )


def test_predictions_are_those_of_loops():
    x, y = images()
    module = network()
    fit = ew.torch.fit(module, nn.CrossEntropyLoss(), (x, y))
    predictor = fit.predictor(x[:4].numpy())
    parameters = list(module.parameters())
    outputs = module(x[:4])
    jacobian = slopes(outputs, parameters).detach().numpy()
    np.testing.assert_allclose(predictor.outputs, outputs.detach(), **CLOSE)
    np.testing.assert_allclose(predictor.gradients(0, 4), jacobian, **CLOSE)
    np.testing.assert_allclose(predictor.gradients(1, 3), jacobian[3:9], **CLOSE)
    v = np.random.default_rng(1).normal(size=(2, jacobian.shape[1]))
    along = predictor.along(v)
    assert along.shape == (2, 4, C)
    np.testing.assert_allclose(along.reshape(2, -1), v @ jacobian.T, **CLOSE)
    # A difference of outputs: its second derivative times the step, 1e-6.
    moved = (predictor.at(1e-6 * v) - predictor.outputs) / 1e-6
    np.testing.assert_allclose(moved, along, atol=1e-4)


def test_orders_that_change_are_refused_for_weights_only():
    x, y = images()
    module, data = network(), torch.utils.data.TensorDataset(*images())
    plain = ew.torch.fit(module, nn.CrossEntropyLoss(), [(x, y)])
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    fit = ew.torch.fit(module, nn.CrossEntropyLoss(), loader)
    np.testing.assert_allclose(
        dense(fit.operator("fisher")), dense(plain.operator("fisher")), **CLOSE
    )
    with pytest.raises(InputError, match="shuffle=False"):
        fit.scores(np.ones((1, N)))
    # A shuffling that no loader tells of.
    batches = in_batches(x, y)
    fit = ew.torch.fit(module, nn.CrossEntropyLoss(), batches)
    batches[0], batches[1] = batches[1], batches[0]
    with pytest.raises(InputError, match="batch 0 of the loader is not what it was"):
        fit.scores(np.ones((1, N)))
    batches.pop()
    with pytest.raises(InputError, match="gave 2 batches, 3 before"):
        fit.operator("fisher").rows(np.ones((1, sum(p.numel() for p in module.parameters()))))
    with pytest.raises(InputError, match="which ends"):
        ew.torch.fit(module, nn.CrossEntropyLoss(), iter(batches))


def test_vectors_of_another_kind_are_refused():
    x, y = images(torch.float32)
    fit = ew.torch.fit(network(torch.float32), nn.CrossEntropyLoss(), (x, y))
    operator = fit.operator("fisher")
    with pytest.raises(InputError, match=r"float64 vectors .* \.astype\('float32'\)"):
        operator.rows(np.ones((1, operator.size)))
    with pytest.raises(InputError, match="one a row"):
        operator.rows(np.ones((1, 3), np.float32))
    with pytest.raises(TypeError, match=r"outside of jax\.jit"):
        jax.jit(operator.rows)(jnp.ones((1, operator.size), jnp.float32))
    module = network()
    module.conv.float()
    with pytest.raises(InputError, match=r"torch\.float32, torch\.float64, need all"):
        ew.torch.fit(module, nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(InputError, match="prior_precision is -1"):
        ew.torch.fit(network(torch.float32), nn.CrossEntropyLoss(), (x, y), prior_precision=-1.0)


def forward(theta, x):
    """The same network in JAX, of one image; parameters in the module's order."""
    kernel, bias, weight, shift = theta
    maps = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID")[0]
    maps = jnp.tanh(maps + bias[:, None, None])
    return weight @ maps.reshape(2, 2, 2, 2, 2).mean((2, 4)).reshape(-1) + shift


def distance(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


@pytest.mark.parametrize(
    ("dtype", "kinds"),
    [(torch.float64, ("hessian", "gauss_newton", "fisher")), (torch.float32, ("gauss_newton",))],
    ids=["double", "single"],
)
def test_products_are_those_of_jax(dtype, kinds):
    x, y = images(dtype)
    fit = ew.torch.fit(network(dtype), nn.CrossEntropyLoss(), in_batches(x, y), prior_precision=0.5)
    theta = [jnp.asarray(value.numpy()) for value in fit.theta.values()]
    objective = ew.Objective.supervised(
        forward, ew.losses.categorical, (x.numpy(), y.numpy()), prior_precision=0.5
    )
    v = np.random.default_rng(2).normal(size=(3, fit.operator("hessian").size))
    # Some ten roundings, in the 2-norm of a product.
    rounding = 20 * np.finfo(fit.source().dtype).eps
    for kind in kinds:
        ours = fit.operator(kind.replace("_", "-"), 0.1)
        theirs = getattr(ew.operators, kind)(objective, theta, prior_precision=0.1)
        assert (ours.size, ours.dtype, ours.kind) == (theirs.size, theirs.dtype, theirs.kind)
        assert ours.damping == pytest.approx(theirs.damping, rel=1e-15)
        assert (ours.lower is None) == (theirs.lower is None)
        found, wanted = (operator.rows(v.astype(ours.dtype)) for operator in (ours, theirs))
        assert distance(found, wanted) < rounding, kind

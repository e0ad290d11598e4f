"""The laws of the perturbation: where it may be, and where it must be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smartreg.inputs import Inputs
from smartreg.perturbation import Perturbation

NORMS = ["linf", "l2"]
SCOPES = ["sample", "token"]
HALF = [torch.float16, torch.bfloat16]


def perturbation(**options):
    defaults = {"epsilon": 1e-2, "step_size": 1e-1, "noise_std": 1e-2, "num_steps": 1}
    return Perturbation(**{**defaults, "norm": "linf", "scope": "sample", "project": True, **options})


def size(deltas, norm, scope):
    """The largest norm of a sample or token, in float64."""
    deltas = [d.double() for d in deltas]
    order = math.inf if norm == "linf" else 2
    if scope == "token":
        return max(torch.linalg.vector_norm(d, order, dim=-1).max().item() for d in deltas)
    joined = torch.cat([d.flatten(1) for d in deltas], dim=1)
    return torch.linalg.vector_norm(joined, order, dim=1).max().item()


def inputs_of(seed, dtype=torch.float32, scale=1.0, count=1, shape=(3, 4, 5)):
    generator = torch.Generator().manual_seed(seed)
    tensors = tuple((scale * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count))
    masks = tuple(torch.rand(shape[:-1], generator=generator) < 0.7 for _ in range(count))
    return Inputs.check(tensors, masks)


def noise_gradient(seed, scale=1.0):
    """A gradient that points anywhere, so that nothing but the projection keeps the perturbation inside."""
    generator = torch.Generator().manual_seed(seed)
    return lambda deltas: [scale * torch.randn(d.shape, generator=generator).to(d) for d in deltas]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    epsilon=st.sampled_from([1e-6, 1e-5, 1e-3, 0.1, 3.0]),
    step_size=st.sampled_from([1e-6, 1e-3, 10.0, math.inf]),
    noise_std=st.sampled_from([1e-6, 1e-3, 10.0, math.inf]),
    noise=st.sampled_from(["normal", "uniform"]),
    num_steps=st.integers(0, 3),
    stretch=st.sampled_from([None, 0.01, 3.0]),
    dtype=st.sampled_from([*HALF, torch.float32, torch.float64]),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    count=st.integers(1, 2),
)
def test_x_plus_delta_never_leaves_the_ball(
    norm, scope, seed, epsilon, step_size, noise_std, noise, num_steps, stretch, dtype, scale, count
):
    """Also where the embeddings' precision is so low that x + δ, rounded to the nearest, would be outside."""
    inputs = inputs_of(seed, dtype, scale, count)
    search = perturbation(
        norm=norm,
        scope=scope,
        epsilon=epsilon,
        step_size=step_size,
        noise_std=noise_std,
        noise=noise,
        num_steps=num_steps,
        search_radius=None if stretch is None else stretch * epsilon,
    )
    torch.manual_seed(seed)
    deltas = search.search(noise_gradient(seed), inputs)
    moved = [new.double() - x.double() for new, x in zip(inputs.add(deltas), inputs.tensors, strict=True)]
    rounding = 1 + (1e-9 if dtype == torch.float64 else 1e-6)
    assert size(deltas, norm, scope) <= epsilon * rounding
    assert size(moved, norm, scope) <= epsilon * rounding
    for delta, mask in zip(deltas, inputs.masks, strict=True):
        assert not delta[~mask.expand_as(delta)].any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("num_steps", [0, 1])
@pytest.mark.parametrize("search_radius", [None, 1e-4, 1.0])
def test_infinite_noise_and_steps_end_on_the_edge(norm, scope, num_steps, search_radius):
    """Gradients are taken at the radius of the search, and δ ends at ε."""
    seen, gradient = [], noise_gradient(0)
    search = perturbation(
        norm=norm,
        scope=scope,
        noise_std=math.inf,
        step_size=math.inf,
        num_steps=num_steps,
        search_radius=search_radius,
    )
    inputs = inputs_of(0, torch.float64)
    deltas = search.search(lambda d: (seen.append(d), gradient(d))[1], inputs)
    assert size(deltas, norm, scope) == pytest.approx(search.epsilon, rel=1e-6)
    for at in seen:
        assert size(at, norm, scope) == pytest.approx(search_radius or search.epsilon, rel=1e-6)
    if norm == "linf":  # all of the real coordinates
        assert sum((d.abs() > 0.99 * search.epsilon).sum() for d in deltas) == sum(
            mask.expand(3, 4, 5).sum() for mask in inputs.masks
        )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scope", SCOPES)
def test_noise_and_steps_that_would_end_outside_end_on_the_edge(norm, scope):
    """The bound of the law above is reached, so the law is not kept by perturbing too little."""
    for num_steps in (0, 1):
        search = perturbation(norm=norm, scope=scope, noise_std=10.0, num_steps=num_steps)
        deltas = search.search(noise_gradient(0), inputs_of(0, torch.float64))
        assert size(deltas, norm, scope) == pytest.approx(search.epsilon, rel=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("project", [True, False])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**20), hostile=st.sampled_from([1e6, math.inf, math.nan]))
def test_gradients_at_padded_positions_have_no_influence(scope, project, seed, hostile):
    inputs = inputs_of(seed)
    search = perturbation(scope=scope, num_steps=2, norm="l2", project=project)
    (mask,) = inputs.masks

    def found(at_padding):
        torch.manual_seed(seed)
        gradient = noise_gradient(seed)
        return search.search(lambda d: [torch.where(mask, g, at_padding) for g in gradient(d)], inputs)[0]

    assert torch.equal(found(hostile), found(0.0))
    assert found(hostile).isfinite().all()
    assert not found(hostile)[~mask.expand(inputs.tensors[0].shape)].any()


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**20), magnitude=st.integers(-38, 30))
def test_a_step_takes_the_direction_of_the_gradient_whatever_its_size(norm, seed, magnitude):
    """The step's length is η in the norm, also where the squares of the gradient leave float32."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2, 3, 4, generator=generator)
    inputs = Inputs.check(torch.zeros(2, 3, 4), None)
    search = perturbation(norm=norm, epsilon=1.0, step_size=0.5, noise_std=1e-30)
    (delta,) = search.search(lambda _: [10.0**magnitude * direction], inputs)
    order = math.inf if norm == "linf" else 2
    lengths = torch.linalg.vector_norm(direction.flatten(1), order, dim=1)
    tolerance = 1e-5 if magnitude > -36 else 1e-2  # below, float32 is subnormal and keeps few digits
    torch.testing.assert_close(
        delta, 0.5 * direction / lengths[:, None, None], rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("norm", "sign"), [("linf", True), ("l2", False)])
@settings(max_examples=40)
@given(seed=st.integers(0, 2**20))
def test_many_steps_reach_the_maximiser_of_a_linear_function(norm, sign, seed):
    """Of wᵀδ on the ball: ε sign(w), or ε w / ‖w‖."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    inputs = Inputs.check(torch.zeros(2, 3, 4, dtype=torch.float64), None)
    search = perturbation(norm=norm, num_steps=3, step_size=1e4)
    torch.manual_seed(seed)
    (delta,) = search.search(lambda _: [w.reshape(2, 3, 4)], inputs)
    best = search.epsilon * (w.sign() if sign else w / w.norm(dim=1, keepdim=True))
    torch.testing.assert_close(delta.flatten(1), best, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_tuple_is_measured_as_one_sample_and_a_token_by_itself(scope):
    """A gradient of 1 beside one of 10: the smaller is a tenth of the step, or a whole one."""
    inputs = Inputs.check((torch.zeros(1, 2, 3), torch.zeros(1, 1, 3)), None)
    search = perturbation(scope=scope, epsilon=1.0, step_size=0.5, noise_std=1e-30)
    small, large = search.search(lambda _: [torch.ones(1, 2, 3), torch.full((1, 1, 3), 10.0)], inputs)
    torch.testing.assert_close(large, torch.full((1, 1, 3), 0.5))
    torch.testing.assert_close(small, torch.full((1, 2, 3), 0.05 if scope == "sample" else 0.5))


@pytest.mark.parametrize("step_size", [0.1, math.inf])
def test_a_gradient_of_zero_leaves_the_noise(step_size):
    inputs = inputs_of(0, torch.float64)
    results = []
    for num_steps in (0, 4):
        torch.manual_seed(0)
        search = perturbation(num_steps=num_steps, step_size=step_size)
        results.append(search.search(lambda deltas: [torch.zeros_like(d) for d in deltas], inputs)[0])
    torch.testing.assert_close(*results)
    assert results[0].any()


def test_a_gradient_that_is_not_finite_shows():
    for norm in NORMS:
        for step_size in (0.1, math.inf):
            search = perturbation(norm=norm, step_size=step_size)
            (delta,) = search.search(
                lambda deltas: [torch.full_like(d, math.inf) for d in deltas], inputs_of(0)
            )
            assert delta.isnan().any()


def test_the_noise_has_the_standard_deviation_it_is_given():
    search = perturbation(noise_std=0.3, epsilon=1e3, num_steps=0)
    (delta,) = search.search(noise_gradient(0), Inputs.check(torch.zeros(100, 100, 10), None))
    assert delta.std().item() == pytest.approx(0.3, rel=0.02)
    search = perturbation(noise_std=0.3, noise="uniform", epsilon=1e3, num_steps=0)
    (delta,) = search.search(noise_gradient(0), Inputs.check(torch.zeros(100, 100, 10), None))
    assert delta.std().item() == pytest.approx(0.3 / 3**0.5, rel=0.02)
    assert 0.299 < delta.abs().max() <= 0.3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", -1e-5),
        ("epsilon", math.nan),
        ("step_size", 0.0),
        ("noise_std", 0.0),
        ("noise_std", -1.0),
        ("search_radius", 0.0),
        ("noise", "cauchy"),
        ("num_steps", -1),
        ("num_steps", 1.0),
        ("num_steps", True),
        ("norm", "l1"),
        ("scope", "batch"),
    ],
)
def test_impossible_options_are_refused_by_name_and_value(option, value):
    with pytest.raises(ValueError, match=f"{option} .*got {value!r}"):
        perturbation(**{option: value})

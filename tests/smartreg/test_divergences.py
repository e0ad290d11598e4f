"""The divergences against their formulae in float64 and in scipy."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smartreg import bernoulli_symmetric_kl, jensen_shannon, kl, squared_error, symmetric_kl
from smartreg.divergences import compare

SOFTMAX = [symmetric_kl, kl, jensen_shannon]
ALL = [*SOFTMAX, bernoulli_symmetric_kl, squared_error]


def by_scipy(divergence, perturbed, clean):
    """The definition, one value for each row of logits (or each logit), in float64."""
    if divergence is squared_error:
        return (perturbed - clean) ** 2
    if divergence is bernoulli_symmetric_kl:
        perturbed, clean = (np.stack([logits, np.zeros_like(logits)], -1) for logits in (perturbed, clean))
        divergence = symmetric_kl
    p, q = scipy.special.softmax(perturbed, -1), scipy.special.softmax(clean, -1)
    rel_entr = scipy.special.rel_entr
    if divergence is symmetric_kl:
        return (rel_entr(p, q) + rel_entr(q, p)).sum(-1)
    if divergence is kl:
        return rel_entr(q, p).sum(-1)
    m = (p + q) / 2
    return (rel_entr(p, m) + rel_entr(q, m)).sum(-1) / 2


@st.composite
def two_logits(draw, limit=20.0):
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 5)))
    elements = st.floats(-limit, limit)
    return tuple(torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=elements))) for _ in range(2))


@pytest.mark.parametrize("divergence", ALL)
@settings(max_examples=60)
@given(logits=two_logits())
def test_every_divergence_is_the_batch_mean_of_its_formula(divergence, logits):
    expected = by_scipy(divergence, *(t.numpy() for t in logits)).mean()
    assert divergence(*logits).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("divergence", ALL)
@settings(max_examples=40)
@given(logits=two_logits(), data=st.data())
def test_a_mask_leaves_the_mean_over_the_rows_it_keeps(divergence, logits, data):
    rows = logits[0].shape[0]
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    dtype = data.draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))
    hostile = [torch.where(keep[:, None], t, math.nan) for t in logits]
    value = divergence(*hostile, mask=keep.to(dtype))
    expected = divergence(*(t[keep] for t in logits)) if keep.any() else torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("divergence", ALL)
@settings(max_examples=40)
@given(logits=two_logits())
def test_it_is_zero_at_equal_outputs_never_negative_and_symmetric_but_for_kl(divergence, logits):
    a, b = logits
    assert abs(divergence(a, a).item()) < 1e-30  # the square of what float64 rounds off
    assert divergence(a, b).item() >= 0.0
    if divergence is not kl:
        torch.testing.assert_close(divergence(a, b), divergence(b, a))


@pytest.mark.parametrize("divergence", [d for d in ALL if d is not squared_error])
@settings(max_examples=30)
@given(logits=two_logits(), temperature=st.sampled_from([0.1, 1.0, 2.0, 30.0]))
def test_a_temperature_divides_the_logits_and_nothing_else(divergence, logits, temperature):
    expected = by_scipy(divergence, *(t.numpy() / temperature for t in logits)).mean()
    value = divergence(*logits, temperature=temperature)
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature must be positive and finite, got {wrong!r}"):
            divergence(*logits, temperature=wrong)


@pytest.mark.parametrize("divergence", ALL)
@pytest.mark.parametrize("labels", [(0, -100, 2, -100), (-100, -100, -100, -100)])
def test_ignored_labels_of_tokens_count_for_nothing(divergence, labels):
    """Token-level logits (B, L, C): the mean over the tokens whose label is not -100, gradients too."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([labels, (1, 1, -100, 0)])
    a, b = (
        torch.randn(2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    keep = labels != -100
    value = divergence(a, b, mask=keep)
    torch.testing.assert_close(value, divergence(a[keep], b[keep]))
    for gradient in torch.autograd.grad(value, (a, b)):
        assert not gradient[~keep].any()
        assert gradient[keep].any(-1).all()


@pytest.mark.parametrize("divergence", ALL)
@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, {"mask": torch.tensor([1, 0, 1])}])
@pytest.mark.parametrize("near", [False, True])
def test_gradients_are_those_of_finite_differences(divergence, options, near):
    if divergence is squared_error and "temperature" in options:
        pytest.skip("a temperature has no meaning for numbers")
    generator = torch.Generator().manual_seed(0)
    a, b = (2 * torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    a = (b + 1e-3 * a if near else a).requires_grad_()
    b = b.requires_grad_()
    function = partial(divergence, **options)
    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))


@pytest.mark.parametrize("divergence", ALL)
def test_gradients_reach_both_branches(divergence):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for branch in torch.autograd.grad(divergence(a, b), (a, b)):
        assert branch.abs().max() > 1e-3


@pytest.mark.parametrize("divergence", [d for d in ALL if d is not kl])
def test_half_of_the_gradient_is_left_when_the_clean_branch_is_detached(divergence):
    """Half in this sense: over both orders of two outputs, the halves make up the whole."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    whole = torch.autograd.grad(divergence(a, b), (a, b))
    (for_a,) = torch.autograd.grad(divergence(a, b, detach_clean=True), a)
    (for_b,) = torch.autograd.grad(divergence(b, a, detach_clean=True), b)
    torch.testing.assert_close(whole, (for_a, for_b))
    assert torch.autograd.grad(divergence(a, b, detach_clean=True), b, allow_unused=True) == (None,)


@pytest.mark.parametrize("divergence", ALL)
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-5])
def test_nearby_outputs_do_not_drown_in_rounding(divergence, distance):
    """In float32 a KL taken from its definition has an error of 1e-8, a hundred times the value at 1e-5."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(64, 5, generator=generator)
    perturbed = clean + distance * torch.randn(64, 5, generator=generator)
    expected = divergence(perturbed.double(), clean.double()).item()
    assert divergence(perturbed, clean).item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("divergence", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@settings(max_examples=40)
@given(logits=two_logits(limit=1e4))
def test_large_logits_are_exact_and_have_finite_gradients(divergence, dtype, logits):
    """Up to 1e4 in size, in half precision of what is left of them, with the gradients of float64."""
    a, b = (t.to(dtype).requires_grad_() for t in logits)
    value = divergence(a, b)
    wide = [t.detach().double().requires_grad_() for t in (a, b)]
    expected = divergence(*wide)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    references = torch.autograd.grad(expected, wide)
    for gradient, reference in zip(torch.autograd.grad(value, (a, b)), references, strict=True):
        assert gradient.isfinite().all()
        # What float32 keeps of a logarithm of this size, and the logits' own type of a gradient.
        size = max(t.abs().max().item() for t in wide)
        rounding = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-6 * size + torch.finfo(dtype).eps}
        torch.testing.assert_close(gradient.double(), reference, **rounding)


@pytest.mark.parametrize("divergence", SOFTMAX)
def test_a_class_ruled_out_in_both_branches_adds_nothing(divergence):
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(2, 4, generator=generator, requires_grad=True) for _ in range(2))
    ruled_out = torch.tensor([False, True, False, False])
    value = divergence(*(t.masked_fill(ruled_out, -math.inf) for t in (a, b)))
    torch.testing.assert_close(value, divergence(*(t[:, ~ruled_out] for t in (a, b))))
    for gradient in torch.autograd.grad(value, (a, b)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("divergence", ALL)
def test_half_precision_is_computed_in_float32(divergence):
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.randn(3, 4, generator=generator).bfloat16() for _ in range(2))
    assert divergence(a, b).dtype == torch.float32
    torch.testing.assert_close(divergence(a, b), divergence(a.float(), b.float()))
    assert divergence(a.double(), b).dtype == torch.float64


def test_jensen_shannon_is_at_most_log_2():
    a = torch.tensor([[1e4, 0.0]])
    assert jensen_shannon(a, a.flip(-1)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("divergence", SOFTMAX)
@pytest.mark.parametrize("shape", [(8, 1), (8,), (2, 8, 1)])
def test_one_logit_is_refused_where_a_softmax_would_be_constant(divergence, shape):
    with pytest.raises(ValueError, match="bernoulli_symmetric_kl"):
        divergence(torch.zeros(shape), torch.ones(shape))


@pytest.mark.parametrize("divergence", ALL)
def test_shapes_that_do_not_fit_are_refused(divergence):
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1, 3\)"):
        divergence(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"got \(3,\) for \(2, 3\)"):
        divergence(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(3))


@pytest.mark.parametrize("divergence", ALL)
def test_a_mask_of_other_numbers_than_0_and_1_is_refused(divergence):
    keep = torch.tensor([1.0, 0.0])
    a, b = torch.zeros(2, 3), torch.ones(2, 3).cumsum(1)
    assert divergence(a, b, mask=keep) > 0
    for mask in ((1 - keep) * -1e4, keep / 2):
        with pytest.raises(ValueError, match=r"got values from .*: pass labels != -100"):
            divergence(a, b, mask=mask)


@pytest.mark.parametrize("divergence", SOFTMAX)
def test_a_mask_of_the_logits_shape_is_refused_where_the_classes_are_one_position(divergence):
    with pytest.raises(ValueError, match=r"got \(4, 3\) for \(4,\): .* one for all classes"):
        divergence(torch.zeros(4, 3), torch.ones(4, 3), mask=torch.ones(4, 3))


OUTPUTS = {"kind": torch.tensor([[1.0, 2.0]]), "size": torch.tensor([3.0]), "unused": torch.ones(7)}
OTHERS = {"kind": torch.tensor([[0.0, 5.0]]), "size": torch.tensor([4.0]), "unused": None}


class TestCompare:
    """Outputs with names."""

    def test_it_is_the_sum_over_the_named_divergences(self):
        divergences = {"kind": symmetric_kl, "size": squared_error}
        value = compare(divergences, OUTPUTS, OTHERS)
        expected = symmetric_kl(OUTPUTS["kind"], OTHERS["kind"]) + 1.0
        torch.testing.assert_close(value, expected)

    def test_each_output_has_its_own_mask(self):
        divergences = {"kind": symmetric_kl, "size": squared_error}
        mask = {"kind": torch.zeros(1), "size": torch.ones(1)}
        assert compare(divergences, OUTPUTS, OTHERS, mask).item() == 1.0

    @pytest.mark.parametrize(
        ("divergence", "outputs", "message"),
        [
            (symmetric_kl, OUTPUTS, '{"logits": symmetric_kl}'),
            (symmetric_kl, (torch.ones(1, 2),), "got tuple"),
            ({"shape": symmetric_kl}, OUTPUTS, "'shape'"),
            ({"kind": symmetric_kl}, torch.ones(1, 2), "got Tensor"),
        ],
    )
    def test_another_structure_is_refused(self, divergence, outputs, message):
        with pytest.raises(TypeError, match=message):
            compare(divergence, outputs, outputs)

    def test_a_divergence_that_is_no_scalar_is_refused(self):
        with pytest.raises(ValueError, match=r"got shape \(2,\)"):
            compare(torch.sub, torch.ones(2), torch.ones(2))

"""Other packages, where they have the method: the same update where they are exact, else no worse."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gradsurgery
from gradsurgery import PCGrad
from gradsurgery.alignment import aligned_weights, config_weights, imtlg_weights
from gradsurgery.bargaining import nash_weights
from gradsurgery.dual_cone import dualproj_weights, upgrad_weights
from gradsurgery.min_norm import cagrad_weights, mgda_weights
from tests.gradsurgery.reference import (
    QUARTER,
    hard_matrices,
    losses_with,
    matrices,
    operate,
    parameters_like,
)

aggregation = pytest.importorskip("torchjd.aggregation")
linalg = pytest.importorskip("torchjd._linalg")
pytest.importorskip("pytorch_optimizer")


@st.composite
def independent(draw, *, tasks=(1, 2, 3, 8, 32), spread=1.0):
    """Rows in general position, of lengths that a solver with absolute tolerances bears."""
    t = draw(st.sampled_from(tasks))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    J = torch.randn(t, t + 4, generator=generator, dtype=torch.float64)
    return J * 10 ** (spread * torch.rand(t, 1, generator=generator, dtype=torch.float64))


def close(result, expected, J, tolerance):
    assert (result - expected).norm() <= tolerance * J.norm(dim=1).sum()


@QUARTER
@given(rows=matrices(tasks=(2, 2)))
def test_pcgrad_of_two_is_torchjds(rows):
    result, _ = operate(PCGrad, rows, scope="all")
    torch.testing.assert_close(result, aggregation.PCGrad()(rows), rtol=1e-6, atol=1e-6)


@QUARTER
@given(seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=6), beta=st.sampled_from([0.0, 0.1, 0.9]))
def test_gradvac_of_two_is_torchjds_over_the_steps(seeds, beta):
    other = aggregation.GradVac(beta=beta, eps=0.0)
    parameters = parameters_like(torch.zeros(6).double())
    ours = gradsurgery.GradVac(torch.optim.SGD(parameters), beta=beta)
    for seed in seeds:
        J = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ours.zero_grad()
        ours.backward(losses_with(J, parameters))
        close(parameters[0].grad, other(J), J, 1e-9)


@QUARTER
@given(J=independent())
def test_imtlg_is_torchjds(J):
    expected = aggregation.IMTLG()(J)
    close(imtlg_weights(J @ J.T) / len(J) @ J, expected, J, 1e-6 * (1 + expected.norm().item()))


@QUARTER
@given(J=independent())
def test_config_is_torchjds_and_its_authors(J):
    grad_operator = pytest.importorskip("conflictfree.grad_operator")
    result = config_weights(J @ J.T) @ J
    close(result, aggregation.ConFIG()(J), J, 1e-8)
    close(result, grad_operator.ConFIG_update(J.float()).double(), J, 1e-4)


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
@QUARTER
@given(J=independent(spread=0.0))
def test_aligned_mtl_is_torchjds_times_the_number_of_tasks(mode, J):
    expected = len(J) * aggregation.AlignedMTL(scale_mode=mode)(J)
    close(aligned_weights(J @ J.T, mode) @ J, expected, J, 1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(upgrad_weights, "UPGrad"), (dualproj_weights, "DualProj")],
    ids=["UPGrad", "DualProj"],
)
@QUARTER
@given(J=independent(tasks=(1, 2, 3, 8, 16)))
def test_projections_are_torchjds_times_the_number_of_tasks(ours, theirs, J):
    pytest.importorskip("quadprog")
    projector = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-14)
    expected = len(J) * getattr(aggregation, theirs)(projector=projector)(J)
    close(ours(J @ J.T) @ J, expected, J, 1e-5)


@QUARTER
@given(J=hard_matrices(spread=0, tasks=(2, 3, 8)))
def test_on_dependent_gradients_dualproj_is_no_farther_from_the_sum_than_torchjds(J):
    pytest.importorskip("quadprog")
    projector = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-9)
    other = len(J) * aggregation.DualProj(projector=projector)(J)
    if (J @ other >= 0).all():  # its own regularisation can leave a conflict
        result = dualproj_weights(J @ J.T) @ J
        assert (result - J.sum(0)).norm() <= (other - J.sum(0)).norm() + 1e-6 * J.norm(dim=1).sum()


@QUARTER
@given(J=hard_matrices(spread=0))
def test_mgda_is_no_longer_than_torchjds(J):
    J = J[J.any(dim=1)]
    if len(J):
        shortest = mgda_weights(J @ J.T) / len(J) @ J
        assert shortest.norm() <= aggregation.MGDA(epsilon=1e-9, max_iters=300)(J).norm() + 1e-7 * J.norm()


@QUARTER
@given(J=independent(tasks=(2, 3, 8)), c=st.sampled_from([0.2, 0.5, 0.9]))
def test_cagrad_is_torchjds(J, c):
    pytest.importorskip("cvxpy")
    result = cagrad_weights(J @ J.T, c) / len(J) @ J
    other = aggregation.CAGrad(c=c, norm_eps=0.0)(J)
    assert (J @ result).min() >= (J @ other).min() - 1e-6 * J.norm() ** 2
    close(result, other, J, 1e-3)


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem:UserWarning")
@pytest.mark.parametrize("seed", range(4))
def test_nash_mtl_has_no_smaller_product_of_improvements_than_torchjds(seed):
    """That one iterates approximations of the equation until a step is below 1e-3 or 20 are done."""
    pytest.importorskip("ecos")
    J = torch.randn(2 + seed, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = aggregation.NashMTL(n_tasks=len(J), max_norm=0.0)(J)
    result = nash_weights(J @ J.T) @ J
    gains = [(J @ d / d.norm()).log().sum().item() for d in (result, other)]
    assert gains[0] >= gains[1] - 1e-9
    assert gains[1] >= gains[0] - 0.1  # it is the same problem


@QUARTER
@given(tasks=st.integers(1, 32), seed=st.integers(0, 2**32))
def test_random_weights_are_torchjds_times_the_number_of_tasks(tasks, seed):
    J = torch.eye(tasks, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = tasks * aggregation.Random()(J)
    generator = torch.Generator().manual_seed(seed)
    result, _ = operate(gradsurgery.RLW, J, scope="all", generator=generator)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_pytorch_optimizer_trains_a_network_alike(reduction):
    from pytorch_optimizer import PCGrad as Other

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    twin = copy.deepcopy(model)
    x, targets = torch.randn(8, 4).double(), torch.randn(2, 8, 2).double()
    ours = PCGrad(torch.optim.AdamW(model.parameters(), lr=0.01), reduction=reduction)
    theirs = Other(torch.optim.AdamW(twin.parameters(), lr=0.01), reduction=reduction)
    conflicts = 0
    for _ in range(20):
        ours.zero_grad()
        ours.backward([nn.functional.mse_loss(model(x), y) for y in targets])
        conflicts += ours.conflicts.conflict_rate
        ours.step()
        theirs.zero_grad()
        theirs.pc_backward([nn.functional.mse_loss(twin(x), y) for y in targets])
        theirs.step()
    assert conflicts > 0
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)

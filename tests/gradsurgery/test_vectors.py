"""Products and weighted sums of rows in pieces against one float64 matrix."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradsurgery import ConflictReport, vectors
from gradsurgery.projection import pcgrad_weights, random_order
from tests.gradsurgery.reference import QUARTER

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
CPU = torch.device("cpu")


@pytest.fixture(params=["in place", "gathered"])
def path(request, monkeypatch):
    """Short chunks and slabs, and every row on the path that it names."""
    monkeypatch.setattr(vectors, "CHUNK", 5)
    monkeypatch.setattr(vectors, "SLAB", 7)
    if request.param == "gathered":
        monkeypatch.setattr(vectors, "_divide", lambda parameters: ([], list(parameters)))
    return request.param


@st.composite
def problems(draw, dtypes=DTYPES):
    """T rows over parameters of several dtypes, some not reached by some tasks; and the rows as a matrix."""
    tasks = draw(st.integers(1, 4))
    parameters, columns = [], []
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 5))):
        dtype, size = draw(st.sampled_from(dtypes)), draw(st.integers(1, 17))
        rows = torch.randn(tasks, size, generator=generator).to(dtype)
        reached = draw(st.lists(st.booleans(), min_size=tasks, max_size=tasks).filter(any))
        parameters.append([row.clone() if r else None for row, r in zip(rows, reached, strict=True)])
        columns.append(rows.double() * torch.tensor(reached).unsqueeze(1))
    return parameters, torch.cat(columns, dim=1)


def check_products(parameters, matrix, tolerance):
    gramian = vectors.gramian(parameters, len(matrix), CPU)
    assert gramian.dtype == torch.float64
    lengths = matrix.norm(dim=1)
    error = (gramian - matrix @ matrix.T).abs() / (lengths * lengths.unsqueeze(1)).clamp(min=1e-300)
    assert error.max() <= tolerance


@pytest.mark.usefixtures("path")
def test_products_by_chunks_and_slabs():
    @given(problem=problems())
    @QUARTER
    def check(problem):
        check_products(*problem, tolerance=1e-6)

    check()


@pytest.mark.usefixtures("path")
def test_weighted_sums_land_in_the_first_row_that_there_is():
    @given(problem=problems(), data=st.data())
    @QUARTER
    def check(problem, data):
        parameters, matrix = problem
        weights = torch.tensor(
            data.draw(st.lists(st.floats(-3, 3), min_size=len(matrix), max_size=len(matrix)))
        )
        targets = [vectors.first(flats) for flats in parameters]
        expected = (weights.double() @ matrix).split([t.numel() for t in targets])
        vectors.combine(parameters, weights.double())
        for target, value in zip(targets, expected, strict=True):
            eps = torch.finfo(target.dtype).eps
            assert (target.double() - value).abs().max() <= 8 * eps * (1 + matrix.abs().max() * 12)

    check()


@given(
    exponents=st.lists(st.integers(-40, 38), min_size=2, max_size=4),
    seed=st.integers(0, 99),
    far=st.booleans(),
)
def test_products_at_every_scale_of_float32(exponents, seed, far):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(len(exponents), 6, generator=generator) * (1 + torch.arange(6) * far)
    rows = rows.double() * 10.0 ** torch.tensor(exponents, dtype=torch.float64).unsqueeze(1) / 10
    rows = rows.float()
    check_products([list(rows[:, :4].unbind()), list(rows[:, 4:].unbind())], rows.double(), tolerance=2e-6)


@given(exponent=st.integers(0, 44))
def test_a_weight_beyond_float32_meets_its_tiny_gradient(exponent):
    rows = [torch.tensor([1.0, 2.0]), torch.tensor([1e-38, -1e-38])]
    factors = torch.tensor([1.0, 10.0**exponent], dtype=torch.float64)
    expected = factors @ torch.stack(rows).double()
    vectors.combine([rows], factors)
    torch.testing.assert_close(rows[0].double(), expected, rtol=1e-6, atol=0)


def test_bfloat16_products_are_not_rounded_to_bfloat16():
    rows = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    check_products([list(rows.unbind())], rows.double(), tolerance=1e-12)


class Allocations(TorchDispatchMode):
    """Counts the bytes of every new tensor with more than a few elements."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)
        }
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in known and t.numel() > 64:
                self.bytes += t.untyped_storage().nbytes()
        return result


def test_float32_rows_on_the_cpu_are_multiplied_and_combined_without_new_memory():
    rows = list(torch.randn(3, 2 * vectors.CHUNK + 1).unbind())
    address = rows[0].data_ptr()
    with Allocations() as allocations:
        vectors.gramian([rows], 3, CPU)
        vectors.combine([rows], torch.tensor([1.0, 2.0, 3.0]))
    assert allocations.bytes == 0
    assert rows[0].data_ptr() == address
    with Allocations() as allocations:
        rows[0] + 1
    assert allocations.bytes == 4 * len(rows[0])


def test_other_rows_take_memory_for_one_slab_at_a_time(monkeypatch):
    monkeypatch.setattr(vectors, "SLAB", 1000)
    tensors = 40
    parameters = [[torch.randn(500).bfloat16() for _ in range(3)] for _ in range(tensors)]
    calls = []
    gather = vectors._gather
    monkeypatch.setattr(vectors, "_gather", lambda slab: calls.append(len(slab)) or gather(slab))
    vectors.gramian(parameters, 3, CPU)
    assert calls == [2] * (tensors // 2)


class Launches(TorchDispatchMode):
    """Lists the operations that are not mere views."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view:
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_launches_grow_with_neither_the_tensors_nor_the_tasks_and_never_wait():
    """On the path that accelerators take, without one: a read of a value on the host would be a wait."""
    counts = {}
    for tasks, tensors in [(3, 10), (3, 200), (8, 10)]:
        parameters = [[torch.randn(5).half() for _ in range(tasks)] for _ in range(tensors)]
        order = random_order(tasks, torch.Generator())
        with Launches() as launches:
            gramian = vectors.gramian(parameters, tasks, CPU)
            weights = torch.ones(tasks, dtype=torch.float64)
            vectors.combine(parameters, weights)
        assert "aten::_local_scalar_dense" not in launches.names
        counts[tasks, tensors] = len(launches.names)
        with Launches() as launches:
            pcgrad_weights(gramian, order)
            ConflictReport(tuple("abcdefgh"[:tasks]), gramian, weights)
        assert "aten::_local_scalar_dense" not in launches.names
        assert len(launches.names) < 14 * tasks
    assert len(set(counts.values())) == 1
    with Launches() as launches:
        torch.ones(1).item()
    assert "aten::_local_scalar_dense" in launches.names


def test_numbers_about_tensors_on_two_devices_live_on_the_cpu():
    cuda, mps = torch.device("cuda", 0), torch.device("mps")
    assert vectors.home([cuda, cuda]) == cuda
    assert vectors.home([cuda, CPU]) == vectors.home([mps]) == vectors.home([]) == CPU

"""Products and weighted sums of rows in pieces against one float64 matrix."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradsurgery import vectors
from tests.gradsurgery.counts import Launches
from tests.gradsurgery.reference import QUARTER

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
CPU = torch.device("cpu")


@pytest.fixture(params=["in place", "gathered on the CPU", "gathered elsewhere", "compiled"])
def path(request, monkeypatch):
    """Short chunks and slabs, and every row on the path that it names."""
    for name, size in {"CHUNK": 5, "SUMMED": 7, "GATHERED": 14}.items():
        monkeypatch.setattr(vectors, name, size)
    monkeypatch.setattr(vectors, "SMALL", 99 if request.param == "gathered on the CPU" else 2)
    if request.param == "gathered elsewhere":
        monkeypatch.setattr(vectors, "_divide", lambda parameters: ([], list(parameters)))
    if request.param == "compiled":
        request.getfixturevalue("compiled")
    return request.param


@st.composite
def problems(draw, dtypes=DTYPES):
    """T rows over parameters of several dtypes, some not reached by some tasks; and the rows as a matrix."""
    tasks = draw(st.integers(1, 9))
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


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("place", ["a row", "new memory"])
def test_a_second_sum_is_of_the_rows_as_they_were(place):
    @given(problem=problems(), data=st.data())
    @QUARTER
    def check(problem, data):
        parameters, matrix = problem
        some = st.lists(st.floats(-3, 3), min_size=len(matrix), max_size=len(matrix))
        weights = torch.tensor([data.draw(some), data.draw(some)], dtype=torch.float64)
        targets = [[vectors.first(flats) for flats in parameters], []]
        for flats in parameters:
            reaching = [t for t in flats if t is not None]
            there = place == "a row" and len(reaching) > 1
            targets[1].append(reaching[1] if there else torch.empty_like(reaching[0]))
        joined = [[*flats, target] for flats, target in zip(parameters, targets[1], strict=True)]
        expected = (weights @ matrix).split([t.numel() for t in targets[0]], dim=1)
        vectors.combine(joined, *weights)
        for k in range(2):
            for target, values in zip(targets[k], expected, strict=True):
                eps = torch.finfo(target.dtype).eps
                bound = 8 * eps * (1 + matrix.abs().max() * 12)
                assert (target.double() - values[k]).abs().max() <= bound

    check()


@pytest.mark.usefixtures("path")
def test_products_under_autocast_are_not_rounded():
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_products([list(rows.unbind())], rows.double(), tolerance=1e-6)


@pytest.mark.usefixtures("path")
def test_products_at_every_scale_of_float32():
    @given(
        exponents=st.lists(st.integers(-40, 38), min_size=2, max_size=4),
        seed=st.integers(0, 99),
        far=st.booleans(),
    )
    @QUARTER
    def check(exponents, seed, far):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.rand(len(exponents), 6, generator=generator) * (1 + torch.arange(6) * far)
        rows = rows.double() * 10.0 ** torch.tensor(exponents, dtype=torch.float64).unsqueeze(1) / 10
        rows = rows.float()
        pieces = [list(rows[:, :4].unbind()), list(rows[:, 4:].unbind())]
        check_products(pieces, rows.double(), tolerance=2e-6)

    check()


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


@pytest.mark.parametrize("size", [2, vectors.SMALL])
def test_a_weight_of_zero_keeps_what_is_not_finite(size):
    rows = [torch.full((size,), math.nan), torch.ones(size)]
    vectors.combine([rows], torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert rows[0].isnan().all()


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


@pytest.mark.parametrize("tasks", [2, 8])
def test_products_of_long_rows_are_exact_to_a_millionth(tasks):
    """BLAS adds up float32 in few places: over a row this long, it is off by ten times as much."""
    rows = torch.rand(tasks, 2**20, generator=torch.Generator().manual_seed(0))
    check_products([list(rows.unbind())], rows.double(), tolerance=1e-6)


def test_float32_rows_on_the_cpu_are_multiplied_and_combined_without_new_memory():
    rows = list(torch.randn(3, 2 * vectors.SUMMED + 1).unbind())
    address = rows[0].data_ptr()
    with Allocations() as allocations:
        vectors.gramian([rows], 3, CPU)
        vectors.combine([rows], torch.tensor([1.0, 2.0, 3.0]))
    assert allocations.bytes == 0
    assert rows[0].data_ptr() == address
    with Allocations() as allocations:
        rows[0] + 1
    assert allocations.bytes == 4 * len(rows[0])


def peak(call):
    """Returns the most bytes that a call holds beyond what there was, as the allocator reports them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    alive = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


SHAPES = {
    "one of 2 tasks": ([2**21], 2, torch.float32),
    "many small of 3 tasks": ([1000] * 1000, 3, torch.float32),
    "one of 8 tasks": ([2**21], 8, torch.float32),
    "small, 8 tasks": ([1000] * 1000, 8, torch.float32),
    "bfloat16": ([2**20, *[1000] * 1000], 3, torch.bfloat16),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_for_one_slab_at_a_time_whatever_the_parameters(shape):
    sizes, tasks, dtype = SHAPES[shape]
    parameters = [[torch.ones(n, dtype=dtype) for _ in range(tasks)] for n in sizes]
    weights = torch.full((tasks,), 0.5, dtype=torch.float64)
    most = peak(lambda: (vectors.gramian(parameters, tasks, CPU), vectors.combine(parameters, weights)))
    if dtype == torch.float32:
        assert most <= 4 * (vectors.GATHERED if "small" in shape else 0) + 2**16
    else:  # one slab as it is and in float64, and its sum
        assert most <= (2 + 8) * (tasks + 1) * vectors.SUMMED
    assert peak(lambda: torch.ones(1000).double()) >= 12000


def test_all_slabs_of_the_cpu_are_gathered_into_one_buffer():
    parameters = [[torch.ones(vectors.SMALL // 2) for _ in range(8)] for _ in range(128)]
    with Allocations() as allocations:
        vectors.gramian(parameters, 8, CPU)
    assert 4 * vectors.GATHERED - 2**18 < allocations.bytes < 4 * vectors.GATHERED + 2**18


def test_small_tensors_take_one_call_each_slab():
    """Neither T² calls a tensor nor, but for the views, any work for each of the tensors."""
    counts = {}
    for tasks, tensors in [(3, 10), (3, 200), (8, 10), (8, 200)]:
        parameters = [[torch.randn(5) for _ in range(tasks)] for _ in range(tensors)]
        with Launches() as launches:
            vectors.gramian(parameters, tasks, CPU)
            vectors.combine(parameters, torch.full((tasks,), 0.5, dtype=torch.float64))
        counts[tasks, tensors] = len(launches.names)
    assert counts[3, 10] == counts[3, 200]
    assert counts[8, 10] == counts[8, 200] <= counts[3, 10] + 16


def test_large_tensors_are_multiplied_where_they_are_however_many_the_tasks():
    parameters = [[torch.randn(vectors.SMALL) for _ in range(16)]]
    with Launches() as launches:
        vectors.gramian(parameters, 16, CPU)
    assert launches.names.count("aten::dot") == 16 * 17 // 2
    assert "aten::cat" not in launches.names


def test_numbers_about_tensors_on_two_devices_live_on_the_cpu():
    cuda, mps = torch.device("cuda", 0), torch.device("mps")
    assert vectors.home([cuda, cuda]) == cuda
    assert vectors.home([cuda, CPU]) == vectors.home([mps]) == vectors.home([]) == CPU

"""The kernel in C against float64: its blocks and groups, its threads, what it leaves to torch, its compiler.

The laws of products and sums hold of it in test_vectors.py, where it is one of the paths.
"""

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import PCGrad, compile_kernels, kernels, vectors
from gradsurgery.projection import random_order
from tests.gradsurgery.counts import Launches
from tests.gradsurgery.reference import QUARTER, algorithm1, operate

CPU = torch.device("cpu")
SIZES = [1, 7, 8, 15, 16, 17, 511, 1024, 1025, 8191, 8192, 8193, 8192 + 1024 + 16 + 3, 30_000]
"""Around the kernel's lanes, parts and blocks."""


def rows_of(tasks, size, seed=0):
    """Rows that begin at any float: a view into longer memory."""
    return list(torch.randn(tasks, size + 1, generator=torch.Generator().manual_seed(seed))[:, 1:].unbind())


def check(pieces, tasks, tolerance=2e-7):
    """Products and a sum of these tensors' rows, against float64."""
    full = [[torch.zeros_like(vectors.first(p)) if row is None else row for row in p] for p in pieces]
    matrix = torch.cat([torch.stack(piece).double() for piece in full], dim=1)
    expected = matrix @ matrix.T
    lengths = expected.diagonal().sqrt()
    error = (kernels.gramian(pieces, tasks) - expected).abs() / (lengths * lengths.unsqueeze(1))
    assert error.nan_to_num(0.0).max() <= tolerance
    weights = torch.linspace(-1, 2, tasks, dtype=torch.float64)
    targets = [vectors.first(piece) for piece in pieces]
    sums = (weights @ matrix).split([len(target) for target in targets])
    vectors.combine(pieces, weights)
    for target, total in zip(targets, sums, strict=True):
        torch.testing.assert_close(target.double(), total, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 7, 8, 9])
def test_every_length_and_number_of_rows(size, tasks):
    check([rows_of(tasks, size)], tasks, tolerance=1e-6)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads_divide_the_elements_among_them(threads):
    before = torch.get_num_threads()
    pieces = [rows_of(3, size, seed) for seed, size in enumerate([5, 300_000, 70_001, 1, 200_000])]
    pieces[1][0] = pieces[2][2] = None
    torch.set_num_threads(threads)
    try:
        check(pieces, 3, tolerance=1e-6)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("compiled")
def test_a_constant_row_is_exact_to_a_millionth():
    """What float32 adds up worst: each sum is rounded to the same side."""
    for value in torch.linspace(0.5, 1.5, 40).tolist():
        rows = [torch.full((100_000,), value), torch.full((100_000,), -value)]
        square = 100_000 * rows[0][0].item() ** 2
        expected = torch.tensor([[square, -square], [-square, square]], dtype=torch.float64)
        torch.testing.assert_close(kernels.gramian([rows], 2), expected, rtol=2e-6, atol=0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(value):
    rows = rows_of(3, 20_000)
    rows[1][15_000] = value
    gramian = kernels.gramian([rows], 3)
    assert not gramian[1].isfinite().any()
    assert gramian[[0, 2]][:, [0, 2]].isfinite().all()
    vectors.combine([rows], torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert rows[0][15_000].isnan()
    assert rows[0].isnan().sum() == 1


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("value", [1e-40, 1e-30, 1e30])
def test_rows_of_zeros_and_of_numbers_whose_squares_float32_does_not_have(value):
    rows = [torch.full((9000,), each) for each in (0.0, 1.0, 2.0, value)]
    matrix = torch.stack(rows).double()
    torch.testing.assert_close(kernels.gramian([rows], 4), matrix @ matrix.T, rtol=1e-12, atol=0)


def jacobian(seed, tasks=3):
    return torch.randn(tasks, 40, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("compiled")
def test_pcgrad_is_algorithm_1():
    @given(seed=st.integers(0, 9999), tasks=st.integers(2, 5))
    @QUARTER
    def check(seed, tasks):
        rows = jacobian(seed, tasks)
        generator, again = (torch.Generator().manual_seed(1) for _ in range(2))
        found, _ = operate(PCGrad, rows, sizes=[17, 23], generator=generator)
        expected = algorithm1(rows, random_order(tasks, again).tolist())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)

    check()


@pytest.mark.usefixtures("compiled")
def test_float32_on_the_cpu_asks_nothing_of_torch_but_the_small_sums():
    rows = list(torch.randn(3, 3 * vectors.SMALL).unbind())
    with Launches() as launches:
        vectors.gramian([rows], 3, CPU)
        vectors.combine([rows], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    asked = {name.split("::")[1].split(".")[0] for name in launches.names}
    assert not asked & {"dot", "bmm", "cat", "addr_", "_foreach_add_", "clone"}


class Marked(torch.Tensor):
    """A tensor of a class of its own, whose memory may be anything."""


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("double", torch.ones(3, dtype=torch.float64)),
        ("half", torch.ones(3, dtype=torch.float16)),
        ("negated", torch._neg_view(torch.ones(3))),
        ("of a class", torch.ones(3).as_subclass(Marked)),
    ],
)
def test_other_rows_are_left_to_torch(kind, row):
    assert not kernels.take([[torch.ones(3), row]], 2), kind
    assert kernels.take([[torch.ones(3), None]], 2)
    assert not kernels.take([[torch.ones(3)] * 65], 65)


@pytest.mark.usefixtures("compiled")
def test_a_negated_view_has_the_products_of_its_values():
    rows = [torch._neg_view(torch.tensor([3.0, 4.0])), torch.tensor([1.0, -1.0])]
    assert vectors.gramian([rows], 2, CPU).tolist() == [[25.0, 1.0], [1.0, 2.0]]


# The compiler


@pytest.fixture
def nothing_loaded(monkeypatch):
    monkeypatch.setattr(kernels, "_loaded", [])


@pytest.mark.usefixtures("nothing_loaded")
def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    message = r"^compiler 'no-such-cc' was not found: install gcc or clang, or name one, or do without"
    with pytest.raises(RuntimeError, match=message):
        compile_kernels("no-such-cc")
    monkeypatch.setenv("CC", "no-such-cc -O1")
    with pytest.raises(RuntimeError, match=message):
        compile_kernels()
    assert not kernels.take([[torch.ones(3)]], 1)


@pytest.mark.usefixtures("nothing_loaded")
def test_a_compiler_that_fails_is_quoted_in_one_line():
    fails = f"{sys.executable} -c 'import sys; sys.exit(\"no such option\")'"
    with pytest.raises(RuntimeError, match=r"^compiler '.*' failed \(no such option\): name gcc or clang$"):
        compile_kernels(fails)
    silent = f"{sys.executable} -c 'import sys; sys.exit(3)'"
    with pytest.raises(RuntimeError, match=r"failed \(exit status 3\)"):
        compile_kernels(silent)


@pytest.mark.usefixtures("nothing_loaded")
def test_a_library_that_cannot_be_loaded_is_one_sentence():
    writes = f'{sys.executable} -c \'import sys; open(sys.argv[-1], "w").write("no library")\''
    with pytest.raises(RuntimeError, match=r"^the compiled kernel cannot be loaded \(.*\): set TMPDIR to"):
        compile_kernels(writes)
    assert kernels._loaded == []


def test_it_is_compiled_once(compiled):
    compile_kernels("no-such-cc")  # there is one, so that nothing is asked
    assert len(kernels._loaded) == 1

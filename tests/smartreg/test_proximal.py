"""The momentum teacher against its recursion written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smartreg import SMART, BregmanProximalPoint, EmbeddingFunction, squared_error, symmetric_kl


@settings(max_examples=30)
@given(momentum=st.floats(0.0, 0.999), steps=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_the_teacher_is_the_moving_average_of_the_parameters(make, momentum, steps, seed):
    model = make(seed=seed)
    proximal = BregmanProximalPoint(model, momentum=momentum)
    average = [p.detach().clone() for p in model.parameters()]
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        proximal.update()
        pairs = zip(model.parameters(), average, strict=True)
        average = [(1 - momentum) * new.detach() + momentum * old for new, old in pairs]
    torch.testing.assert_close([p.detach() for p in proximal.teacher.parameters()], average)


def test_parameters_of_integers_are_copied(make):
    """As layers of quantized weights hold them; they have no average."""
    model = make()
    model.register_parameter("codes", nn.Parameter(torch.tensor([1, -7], dtype=torch.int8), False))
    proximal = BregmanProximalPoint(model)
    with torch.no_grad():
        model.codes.fill_(5)
    proximal.update()
    assert proximal.teacher.codes.tolist() == [5, 5]


def another_first(model):
    model.register_parameter("scale", nn.Parameter(torch.tensor(5.0)))


def another_last(model):
    model.last = nn.Linear(2, 2)


def other_shape(model):
    model.outer = nn.Linear(8, 7)


@pytest.mark.parametrize("change", [another_first, another_last, other_shape])
def test_other_parameters_than_the_teachers_are_refused_before_any_is_written(make, change):
    model = make(dtype=torch.float32)
    proximal = BregmanProximalPoint(model, momentum=0.5)
    before = [p.clone() for p in proximal.teacher.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    change(model)
    with pytest.raises(ValueError, match="make a new BregmanProximalPoint"):
        proximal.update()
    assert all(map(torch.equal, proximal.teacher.parameters(), before))
    assert proximal.updates == 0


def test_the_penalty_is_the_divergence_from_the_teacher(make, x):
    model = make(dropout=0.5)
    proximal = BregmanProximalPoint(model)
    teacher = copy.deepcopy(model).eval()
    with torch.no_grad():
        model.outer.weight[0].add_(0.3)  # one class, or no softmax would change
    outputs = model(x)
    penalty = proximal(outputs, x)
    torch.testing.assert_close(penalty, symmetric_kl(outputs, teacher(x)))
    penalty.backward()
    assert model.outer.weight.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in proximal.teacher.parameters())


def test_the_teachers_outputs_are_a_constant_target(make, x):
    model, x = make(), x.clone().requires_grad_()
    assert not BregmanProximalPoint(model)(model(x).detach(), x).requires_grad


def test_it_is_zero_before_the_first_step(make, x):
    model = make()
    assert BregmanProximalPoint(model)(model(x), x).item() == 0.0


def test_the_teacher_has_no_dropout_in_either_mode(make, x):
    model = make(dropout=0.5)
    proximal = BregmanProximalPoint(model)
    outputs = model(x).detach()
    for mode in (True, False):
        assert proximal.train(mode).training == mode
        assert proximal(outputs, x) == proximal(outputs, x)
    assert model.training


def test_named_outputs_and_arguments(make, x, mask):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = make()

        def forward(self, embeddings, mask):
            return {"size": self.part(embeddings, mask), "cache": None}

    model = Named()
    proximal = BregmanProximalPoint(model, divergence={"size": squared_error})
    outputs = {"size": model(x, mask=mask)["size"] + 2.0}
    assert proximal(outputs, x, mask=mask).item() == pytest.approx(4.0)


def test_buffers_follow_and_the_state_resumes(x):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 3)).double()
    proximal = BregmanProximalPoint(model, momentum=0.9)
    model(x)
    proximal.update()
    assert torch.equal(proximal.teacher[1].running_mean, model[1].running_mean)
    other = BregmanProximalPoint(copy.deepcopy(model), momentum=0.9)
    other.load_state_dict(proximal.state_dict())
    outputs = model(x).detach()
    assert torch.equal(other(outputs, x), proximal(outputs, x))


class Growing(nn.Module):
    """Makes its buffer anew for longer inputs, as tables of positions do, and remembers for which length."""

    def __init__(self):
        super().__init__()
        self.length = 0
        self.register_buffer("table", torch.zeros(0).double())
        self.register_buffer("later", None)
        self.outer = nn.Linear(6, 3).double()

    def forward(self, x):
        if x.shape[1] > self.length:
            self.length, self.scale, self.seen = x.shape[1], torch.tensor(2.0), self.outer(x)
            self.register_buffer("passing", torch.zeros(2), persistent=False)
            self.later = torch.ones(1).double()
            self.table = torch.linspace(0, 1, self.length).double()
        return self.outer((self.later * self.scale * self.table[: x.shape[1], None] * x).sum(1))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_buffers_follow_in_any_shape_and_with_what_is_beside_them(dtype):
    model = Growing()
    proximal = BregmanProximalPoint(model, momentum=0.0, dtype=dtype)
    for length in (2, 5, 3):
        model(torch.randn(4, length, 6).double())
        proximal.update()
        assert proximal.teacher.table.shape == model.table.shape
        assert proximal.teacher.length == model.length
    assert proximal.teacher.table.dtype == (dtype or torch.float64)
    assert proximal.teacher.table is not model.table
    assert proximal.teacher.scale is not model.scale
    assert not hasattr(proximal.teacher, "seen")
    assert proximal.teacher.state_dict().keys() == model.state_dict().keys()
    assert model.training
    assert not proximal.teacher.training
    x = torch.randn(4, 4, 6).double()
    assert proximal(model(x), x).item() == pytest.approx(0.0, abs=1e-12 if dtype is None else 1e-2)
    assert model.table.shape == proximal.teacher.table.shape == (5,)


def test_the_models_own_parameters_are_no_part_of_it(make):
    model = make()
    proximal = BregmanProximalPoint(model)
    assert len(list(proximal.parameters())) == len(list(model.parameters()))
    assert not {id(p) for p in proximal.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_an_impossible_momentum_is_refused(make, momentum):
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        BregmanProximalPoint(make(), momentum=momentum)


def test_an_impossible_dtype_is_refused(make):
    with pytest.raises(ValueError, match=r"dtype must be one that models compute in, got torch.int8"):
        BregmanProximalPoint(make(), dtype=torch.int8)


def test_a_target_is_the_teachers_outputs_without_a_graph(make, x):
    model = make()
    proximal = BregmanProximalPoint(model)
    target = proximal.target(x.clone().requires_grad_())
    assert torch.equal(target, model(x))
    assert not target.requires_grad


class TestHalfPrecision:
    """A step of (1 - β)(θ - θ̃) is far below the spacing of bfloat16, and must not be lost."""

    MOMENTUM, STEPS = 0.999, 1000

    @staticmethod
    def follow(proximal, student, steps):
        """Moves the student a little at each step, always the same way."""
        for _ in range(steps):
            with torch.no_grad():
                for p in student.parameters():
                    p.add_(1e-4)
            proximal.update()

    @pytest.fixture
    def student(self):
        torch.manual_seed(0)
        return nn.Linear(40, 50)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_teacher_goes_where_that_in_float32_goes(self, student, dtype):
        exact = BregmanProximalPoint(student, momentum=self.MOMENTUM)
        proximal = BregmanProximalPoint(student, momentum=self.MOMENTUM, dtype=dtype)
        nearest = [p.detach().to(dtype) for p in student.parameters()]
        start = exact.teacher.weight.clone()
        for _ in range(self.STEPS):
            self.follow(proximal, student, 1)
            exact.update()
            pairs = zip(nearest, student.parameters(), strict=True)
            nearest = [old.lerp(new.detach().to(dtype), 1 - self.MOMENTUM) for old, new in pairs]
        moved = (exact.teacher.weight - start).mean().item()
        found = (proximal.teacher.weight.float() - start).mean().item()
        by_nearest = (nearest[0].float() - start).mean().item()
        assert proximal.teacher.weight.dtype == dtype
        assert found == pytest.approx(moved, rel=0.02)
        assert abs(by_nearest - moved) > 2 * abs(found - moved)  # what this is there to prevent
        spacing = torch.finfo(dtype).eps * exact.teacher.weight.abs().mean()
        error = (proximal.teacher.weight.float() - exact.teacher.weight).square().mean()
        assert error < spacing * (moved + spacing)  # steps of s spacings, s < 1, have a variance of s (1 - s)

    def test_it_resumes_to_the_bit_and_moves_no_generator(self, student):
        proximal = BregmanProximalPoint(student, momentum=0.5, dtype=torch.bfloat16)
        self.follow(proximal, student, 3)
        proximal.momentum = 0.9
        state, weights = copy.deepcopy(proximal.state_dict()), copy.deepcopy(student)
        before = torch.get_rng_state()
        self.follow(proximal, student, 3)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(5)
        other = BregmanProximalPoint(weights, dtype=torch.bfloat16)
        other.load_state_dict(state)
        self.follow(other, weights, 3)
        assert torch.equal(other.teacher.weight, proximal.teacher.weight)
        assert other.state_dict()["_extra_state"] == {"momentum": 0.9, "updates": 6}

    def test_every_update_draws_other_numbers(self, student):
        """Else what is rounded up once would be at every step."""
        proximal = BregmanProximalPoint(student, momentum=0.999, dtype=torch.bfloat16)
        with torch.no_grad():
            for p in student.parameters():
                p.mul_(2.0)
        changed = []
        for _ in range(2):
            before = proximal.teacher.weight.clone()
            proximal.update()
            changed.append(proximal.teacher.weight != before)
        assert 0 < (changed[0] & changed[1]).sum() < 0.5 * min(c.sum() for c in changed)

    def test_arguments_are_cast_and_the_penalty_is_near(self, make, x, mask):
        class Nested(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = make(dtype=torch.float32)

            def forward(self, inputs, *, more):
                return self.part(inputs["x"], mask=more[0][1])

        model = Nested()
        pair = {"x": x.float()}, [("a name", mask)]
        exact, half = (BregmanProximalPoint(model, dtype=dtype) for dtype in (None, torch.bfloat16))
        with torch.no_grad():
            model.part.outer.weight[0].add_(0.3)  # one class, or no softmax would change
        outputs = model(pair[0], more=pair[1])
        expected, found = (p(outputs, pair[0], more=pair[1]).item() for p in (exact, half))
        assert expected != found
        assert found == pytest.approx(expected, rel=0.05)

    def test_it_takes_half_the_memory(self, student):
        sizes = [
            sum(t.numel() * t.element_size() for t in BregmanProximalPoint(student, dtype=dtype).parameters())
            for dtype in (torch.bfloat16, None)
        ]
        assert sizes[0] == sizes[1] / 2


@pytest.mark.parametrize("dropout", ["independent", "shared"])
def test_with_smart_in_one_step(make, x, dropout):
    """Both penalties in one loss, by both backwards, with the model as a function of its embedding."""
    labels = torch.tensor([0, 2, 1, 0])

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rest = nn.Linear(6, 6).double(), make(dropout=0.3)

        def forward(self, x):
            return self.rest(self.embed(x))

    model = Whole()
    function = EmbeddingFunction(model, model.embed)  # before the copy, which then has a hook of its own
    proximal = BregmanProximalPoint(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    smart = SMART(epsilon=1e-2, step_size=1.0, dropout=dropout)

    def loss(outputs):
        return F.cross_entropy(outputs, labels) + 2.0 * proximal(outputs, x)

    def gradients():
        return [p.grad.clone() for p in model.parameters()]

    torch.manual_seed(3)
    outputs = model(x)
    torch.manual_seed(3)
    forward, embeddings = function.bind(x)
    found, penalty = smart.penalize(forward, embeddings)
    assert torch.equal(found, outputs)
    teacher = copy.deepcopy(proximal.teacher)
    by_hand = F.cross_entropy(found, labels) + 2.0 * symmetric_kl(found, teacher(x)) + 5.0 * penalty
    torch.testing.assert_close(loss(found) + 5.0 * penalty, by_hand, rtol=0, atol=0)
    assert min(penalty.item(), proximal(found, x).item()) > 0
    by_hand.backward()
    expected = gradients()
    model.zero_grad()
    torch.manual_seed(3)
    smart.backward(forward, embeddings, loss, weight=5.0)
    torch.testing.assert_close(gradients(), expected, rtol=1e-12, atol=1e-14)
    assert all(p.grad is None for p in proximal.parameters())

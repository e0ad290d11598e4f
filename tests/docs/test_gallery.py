"""The gallery's pictures are of what its scripts measure."""

import json

import pytest
import torch

import gradsurgery
from docs.gallery import __main__ as gallery
from docs.gallery import ball, curves, projection, toy
from gradsurgery import GSE, GradientSurgery

SHOWN = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in gallery.FOLDER.glob("*.json")}


def test_every_picture_is_there_with_its_measurements():
    assert set(SHOWN) == set(gallery.PICTURES) == {path.stem for path in gallery.FOLDER.glob("*.png")}


@pytest.mark.parametrize("name", gallery.PICTURES)
def test_a_picture_is_drawn_from_its_measurements(name, tmp_path):
    (tmp_path / f"{name}.json").write_text(json.dumps(SHOWN[name]), encoding="utf-8")
    gallery.main([name, "--draw"], tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_toy_shows_every_method():
    methods = {
        name
        for name in gradsurgery.__all__
        if isinstance(found := getattr(gradsurgery, name), type)
        and issubclass(found, (GradientSurgery, GSE))
        and found is not GradientSurgery
    }
    assert set(toy.METHODS) == methods - {"Mean", "Constant"}  # which are the sum in another length


@pytest.mark.parametrize("name", toy.METHODS)
def test_a_committed_path_is_the_methods(name):
    start = toy.STARTS[1]
    found = toy.path(toy.METHODS[name], start, steps=2 * toy.KEPT)
    shown = SHOWN["toy"][name][1]
    assert len(shown) == toy.STEPS // toy.KEPT + 1
    torch.testing.assert_close(torch.tensor(found), torch.tensor(shown[:3]), rtol=0, atol=2e-3)


def test_the_toys_losses_are_the_papers():
    """Equations of Liu et al. 2021, appendix, written out for one point."""
    point = torch.tensor([-3.0, 2.0], dtype=torch.float64)
    x, y = point
    f1 = ((0.5 * (-x - 7) - torch.tanh(-y)).abs()).clamp(min=5e-6).log() + 6
    f2 = ((0.5 * (-x + 3) - torch.tanh(-y) + 2).abs()).clamp(min=5e-6).log() + 6
    g1, g2 = (((-x + s) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20 for s in (7, -7))
    c1, c2 = torch.tanh(0.5 * y).clamp(min=0), torch.tanh(-0.5 * y).clamp(min=0)
    torch.testing.assert_close(
        torch.stack(toy.losses(point)), torch.stack([c1 * f1 + c2 * g1, c1 * f2 + c2 * g2])
    )
    low = torch.tensor([1.0, -4.0], dtype=torch.float64)
    x, y = low
    c2 = torch.tanh(-0.5 * y)
    g1, g2 = (((-x + s) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20 for s in (7, -7))
    torch.testing.assert_close(torch.stack(toy.losses(low)), torch.stack([c2 * g1, c2 * g2]))


def test_what_the_gallery_says_of_the_toy_holds():
    paths = SHOWN["toy"]["Sum"]
    assert [toy.reaches(path) for path in paths] == [False, True, False]
    (x, y), (_, before) = paths[2][-1], paths[2][-20]
    assert x > 8
    assert y > -1
    assert abs(y - before) < 1  # in 380 steps of which each could be 0.02 long


@pytest.mark.parametrize(
    ("end", "inside"), [((0, -8.4), True), ((7.4, -8), True), ((8, -8), False), ((0, -7), False)]
)
def test_the_pareto_set_is_reached_within_a_half(end, inside):
    assert toy.reaches([[9.0, 9.0], list(end)]) == inside


def test_the_committed_updates_are_the_methods():
    found = projection.measure()
    assert found.keys() == SHOWN["projection"].keys()
    for name, update in found.items():
        assert update == pytest.approx(SHOWN["projection"][name], abs=1e-9), name


def test_in_the_plane_the_sum_conflicts_and_pcgrad_does_not():
    def worst(name):
        return min(
            sum(a * b for a, b in zip(g, SHOWN["projection"][name], strict=True))
            for g in projection.GRADIENTS
        )

    assert worst("Sum") < 0 < worst("PCGrad")
    assert worst("DualProj") == pytest.approx(0, abs=1e-9)
    assert SHOWN["projection"]["PCGrad"] == pytest.approx(SHOWN["projection"]["UPGrad"])


def test_smart_stays_in_the_ball_and_reaches_its_edge():
    moved = torch.tensor(SHOWN["ball"]["moved"]) - torch.tensor(SHOWN["ball"]["points"])
    assert moved.abs().max() <= ball.EPSILON + 2e-4
    furthest = moved.abs().amax(-1)  # a step as long as the radius, from noise that may point the other way
    assert furthest.min() > 0.5 * ball.EPSILON
    assert (furthest > ball.EPSILON - 2e-4).double().mean() > 0.8


def test_what_the_gallery_says_of_smart_holds():
    without, beside = SHOWN["ball"]["without"], SHOWN["ball"]["with"]
    assert without["adversarial"] > without["random"] > 0
    assert beside["adversarial"] < without["adversarial"]


def test_the_ball_is_of_a_network_that_training_gives():
    generator = torch.Generator().manual_seed(1)
    x, labels = ball.data(60, generator)
    torch.testing.assert_close(x, torch.tensor(SHOWN["ball"]["points"]), rtol=0, atol=1e-4)
    assert labels.tolist() == SHOWN["ball"]["labels"]
    model = ball.train(x, labels, weight=0.0)
    with torch.no_grad():
        found = model(ball.square(torch.zeros(2), ball.EXTENT)).softmax(-1)[..., 1]
    shown = torch.tensor(SHOWN["ball"]["without"]["map"])
    # 400 steps carry the rounding of another processor far: in few places of the plane.
    assert ((found > 0.5) == (shown > 0.5)).double().mean() > 0.95


@pytest.mark.parametrize("name", curves.SHOWN)
def test_a_committed_curve_is_the_methods(name):
    found, shown = curves.curve(name, 0, steps=curves.EVERY), SHOWN["curves"][name][0]
    for task in curves.SIZES:
        assert found[task] == pytest.approx(shown[task][:2], rel=1e-2)
        assert len(shown[task]) == curves.STEPS // curves.EVERY + 1


def test_what_the_gallery_says_of_the_curves_holds():
    def end(name, task):
        return curves.ends(SHOWN["curves"], name, task)

    for task, better in {"small": "NashMTL", "middle": "NashMTL", "large": "Sum"}.items():
        (low, first), (high, second) = sorted(end(name, task) for name in ("Sum", "NashMTL"))
        assert end(better, task)[0] == low
        assert high - low > (first**2 + second**2) ** 0.5, f"{task}: within the seeds' errors"
    assert end("Sum", "large")[0] < end("Sum", "small")[0]
    assert end("PCGrad", "large")[0] == pytest.approx(end("Sum", "large")[0], rel=0.2)

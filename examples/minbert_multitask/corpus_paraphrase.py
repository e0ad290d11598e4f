"""The embedded corpus' question pairs: rewordings, and near misses that share as many words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .corpus_drawing import Meanings, Row, draw_meaning, meanings, pick, pick_other, sentence


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One kind of question.

    Attributes:
        patterns: Wordings of the same question.
        slots: By its name in the patterns, what it asks about.
        popular: Whether most questions of this kind are asked twice, as they are for some topics.
        reversible: Whether `a` and `b` have the same fillers, so that swapping them asks another question.
    """

    patterns: tuple[str, ...]
    slots: Mapping[str, Meanings]
    popular: bool
    reversible: bool = False


_CITIES = meanings(
    "Paris, Berlin, Rome, Vienna, Madrid, Oslo, Lisbon, Prague, Dublin, Athens, Warsaw, Geneva"
)
_INGREDIENTS = meanings(
    "butter, oil, honey, yoghurt, lemon juice, cream, vinegar, coconut milk, maple syrup, "
    "cornflour/cornstarch, brown sugar, icing sugar/powdered sugar"
)
_SUBJECTS = meanings(
    "algebra, Latin, statistics, drawing, Python, French, music theory, physics, chess, calculus, "
    "typing, photography"
)
_ANIMALS = meanings(
    "snakes, frogs, owls, foxes, crows, spiders, otters, wasps, lizards, hedgehogs, seagulls/gulls, toads"
)
_PARTIES = meanings(
    "the landlord/the house owner, the tenant/the renter, the builder, the council, the seller, the buyer, "
    "the neighbour, the agent/the broker"
)

FRAMES = (
    Frame(
        patterns=(
            "How do I get from {a} to {b}?",
            "What is the best way to travel from {a} to {b}?",
            "How can one reach {b} from {a}?",
            "I live in {a}, how do I go to {b}?",
        ),
        slots={"a": _CITIES, "b": _CITIES},
        popular=True,
        reversible=True,
    ),
    Frame(
        patterns=(
            "Is it safe to visit {c} {t}?",
            "Can I safely go to {c} {t}?",
            "How dangerous is a trip to {c} {t}?",
            "What are the risks of visiting {c} {t}?",
        ),
        slots={
            "c": meanings("Mexico, Egypt, Brazil, Turkey, Kenya, India, Peru, Iceland, Morocco, Nepal"),
            "t": meanings(
                "alone/on my own, with a baby/with an infant, in winter/during the winter, by car/in a car, "
                "at Christmas/over Christmas, with a dog"
            ),
        },
        popular=True,
    ),
    Frame(
        patterns=(
            "How long should I {v} {o}?",
            "How many minutes does it take to {v} {o}?",
            "How much time do I need to {v} {o}?",
            "When I {v} {o}, how long should it take?",
        ),
        slots={
            "v": meanings("boil, bake, fry/pan-fry, steam, soak, chill/cool, freeze"),
            "o": meanings(
                "rice, beans, potatoes, fish, eggs, lentils, noodles, prawns/shrimp, beets/beetroot, corn"
            ),
        },
        popular=True,
    ),
    Frame(
        patterns=(
            "Can I use {a} instead of {b}?",
            "Is {a} a good substitute for {b}?",
            "Can {b} be replaced by {a}?",
            "I have no {b}, will {a} do?",
        ),
        slots={"a": _INGREDIENTS, "b": _INGREDIENTS},
        popular=True,
        reversible=True,
    ),
    Frame(
        patterns=(
            "Should I learn {a} before {b}?",
            "Is it better to start with {a} and do {b} later?",
            "Does {a} have to come before {b}?",
            "Should {b} wait until I know {a}?",
        ),
        slots={"a": _SUBJECTS, "b": _SUBJECTS},
        popular=True,
        reversible=True,
    ),
    Frame(
        patterns=(
            "How can I {v} {o} {t}?",
            "What is the best way to {v} {o} {t}?",
            "Is there a good method to {v} {o} {t}?",
            "Any tips on how to {v} {o} {t}?",
        ),
        slots={
            "v": meanings("learn/study, teach, improve/get better at"),
            "o": meanings(
                "swimming, the violin, Spanish, cooking, handwriting, skiing, public speaking, spelling"
            ),
            "t": meanings(
                "at home/from home, in one month/within a month, for free/without paying, at my age"
            ),
        },
        popular=True,
    ),
    Frame(
        patterns=(
            "Why does my {o} {p}?",
            "What makes my {o} {p}?",
            "What could cause a {o} to {p}?",
            "My {o} began to {p}, what is the reason?",
        ),
        slots={
            "o": meanings(
                "car, laptop/notebook, fridge/refrigerator, phone, heater, washing machine/washer, radio"
            ),
            "p": meanings(
                "stop suddenly/stop all at once, make a noise/make noises, smell of smoke/smell smoky, "
                "overheat/get too hot, leak/drip, shake/vibrate"
            ),
        },
        popular=False,
    ),
    Frame(
        patterns=(
            "How do I {v} a {s} {o}?",
            "What should I do to {v} a {s} {o}?",
            "What is the easiest way to {v} a {s} {o}?",
            "I want to {v} a {s} {o}, what do I do?",
        ),
        slots={
            "v": meanings("repair/fix, sell, throw away/get rid of, clean, lend to a friend"),
            "s": meanings("broken, rusty, borrowed, second-hand/used"),
            "o": meanings("watch, saw, bike/bicycle, mirror, sofa/couch, printer, tap/faucet, gate"),
        },
        popular=False,
    ),
    Frame(
        patterns=("Do {a} eat {b}?", "Are {b} eaten by {a}?", "Do {a} feed on {b}?", "Are {b} food for {a}?"),
        slots={"a": _ANIMALS, "b": _ANIMALS},
        popular=False,
        reversible=True,
    ),
    Frame(
        patterns=(
            "Are {a} stronger than {b}?",
            "Are {b} weaker than {a}?",
            "Do {a} have more strength than {b}?",
            "Would {a} win a fight against {b}?",
        ),
        slots={"a": _ANIMALS, "b": _ANIMALS},
        popular=False,
        reversible=True,
    ),
    Frame(
        patterns=(
            "Must {a} pay {b} for {o}?",
            "Does {a} have to give {b} money for {o}?",
            "Can {b} charge {a} for {o}?",
            "Is {b} owed money by {a} for {o}?",
        ),
        slots={
            "a": _PARTIES,
            "b": _PARTIES,
            "o": meanings(
                "the roof, the lift/the elevator, the rubbish/the garbage, the broken window, the heating"
            ),
        },
        popular=False,
        reversible=True,
    ),
    Frame(
        patterns=(
            "Is it {w} in {a} than in {b}?",
            "Does {a} have {w} weather than {b}?",
            "Is the weather in {a} {w} than in {b}?",
            "Compared with {b}, is {a} {w}?",
        ),
        slots={
            "w": meanings("warmer/hotter, colder/cooler, windier, wetter/rainier, sunnier"),
            "a": _CITIES,
            "b": _CITIES,
        },
        popular=False,
        reversible=True,
    ),
)


def draw_question_pair(random: Random, index: int) -> Row:
    """Draws two questions; the label is 1 if they have one frame and the same meaning in every slot, else 0.

    A near miss swaps the two things it speaks of, or asks about another thing, or has another frame.
    """
    label = float(index % 2)
    popular = random.random() < (0.75 if label else 0.25)
    frame = other = pick(random, [frame for frame in FRAMES if frame.popular == popular])
    meaning = draw_meaning(random, frame.slots)
    changed = dict(meaning)
    if not label:
        share = random.random()
        if share < 0.2:
            other = pick_other(random, [one for one in FRAMES if one.popular == popular], frame)
            changed = draw_meaning(random, other.slots)
        elif frame.reversible and share < 0.6:
            changed |= {"a": meaning["b"], "b": meaning["a"]}
        else:
            slot = pick(random, sorted(meaning))
            changed[slot] = pick_other(random, frame.slots[slot], *meaning.values())
    return Row(_question(random, frame, meaning), _question(random, other, changed), label)


def _question(random: Random, frame: Frame, meaning: Mapping[str, Sequence[str]]) -> str:
    words = {slot: pick(random, wordings) for slot, wordings in meaning.items()}
    return sentence(pick(random, frame.patterns), **words)

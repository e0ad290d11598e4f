"""The embedded corpus' sentence pairs: scenes, as similar as the weight of the slots that agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from .corpus_drawing import Meanings, Row, draw_meaning, meanings, pick, pick_other, sentence, shuffled


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What is seen in one domain.

    Attributes:
        slots: `agent`, `action` (wordings as "present participle:past participle"), `object` and `place`.
        retold: Whether a scene of this domain is mostly told twice, as it is in some sources.
    """

    slots: Mapping[str, Meanings]
    retold: bool

    @property
    def reversible(self) -> bool:
        """Whether agent and object may change places."""
        return self.slots["agent"] == self.slots["object"]


def _scenes(agent: str, action: str, object: str, place: str, retold: bool) -> Scenes:
    words = {"agent": agent, "action": action, "object": object, "place": place}
    return Scenes(slots={slot: meanings(text) for slot, text in words.items()}, retold=retold)


_BEASTS = "a dog/a hound, a cat, a rabbit/a bunny, a horse, a goose, a goat, a donkey, a pig/a hog"
_PEOPLE = (
    "a girl/a young lady, a teacher/a schoolteacher, a policeman/a police officer, a doctor/a physician, "
    "a farmer, a tourist/a visitor, a lawyer/an attorney"
)

SCENES = (
    _scenes(
        agent="a cook/a chef, a boy/a lad, a woman/a lady, a waiter/a server, a butcher",
        action="cutting up:cut up/slicing:sliced, washing:washed/rinsing:rinsed, "
        "buying:bought/purchasing:purchased, "
        "tasting:tasted/sampling:sampled, throwing away:thrown away/discarding:discarded",
        object="an onion, a potato, some cheese, a courgette/a zucchini, an aubergine/an eggplant, "
        "a melon, some meat",
        place="in the kitchen, at the market, on the balcony, in a restaurant/in a diner, at a campsite",
        retold=True,
    ),
    _scenes(
        agent="a musician/a performer, an old man/an elderly man, a student/a pupil, "
        "a soldier/a trooper, a nun",
        action="carrying:carried/transporting:transported, tuning:tuned/adjusting:adjusted, "
        "repairing:repaired/fixing:fixed, hiding:hidden/concealing:concealed, "
        "buying:bought/purchasing:purchased",
        object="a guitar, a violin/a fiddle, a flute, a drum, a piano, a trumpet, a harp",
        place="on the stage, in a church/in a chapel, in the garage, at the fair/at the carnival, "
        "in the attic",
        retold=True,
    ),
    _scenes(
        agent="a fisherman/an angler, a sailor/a seaman, a diver, a captain/a skipper, a child/a kid",
        action="carrying:carried/transporting:transported, hiding:hidden/concealing:concealed, "
        "finding:found/discovering:discovered, "
        "drawing:drawn/sketching:sketched, cleaning:cleaned/wiping:wiped",
        object="a net, a shell, a rope/a cord, a lamp/a lantern, an anchor, a map, a bucket",
        place="on the beach/on the shore, in the harbour/in the port, on an island, "
        "under the bridge, near the cliff",
        retold=True,
    ),
    _scenes(
        agent=_BEASTS,
        action="chasing:chased/pursuing:pursued, watching:watched/observing:observed, "
        "pushing:pushed/shoving:shoved, "
        "leading:led/guiding:guided, frightening:frightened/scaring:scared",
        object=_BEASTS,
        place="in the field/in the meadow, behind the barn, near the pond, by the gate/at the gate, "
        "on the hill",
        retold=False,
    ),
    _scenes(
        agent=_PEOPLE,
        action="greeting:greeted/welcoming:welcomed, helping:helped/assisting:assisted, "
        "phoning:phoned/calling:called, "
        "insulting:insulted/offending:offended, warning:warned/alerting:alerted",
        object=_PEOPLE,
        place="at the station, in the street/on the road, in the park, at school, outside the bank",
        retold=False,
    ),
    _scenes(
        agent="a carpenter/a woodworker, a mechanic/a repairman, an apprentice/a trainee, "
        "a plumber, an engineer",
        action="covering:covered/wrapping up:wrapped up, lifting:lifted/raising:raised, "
        "cleaning:cleaned/wiping:wiped, dragging:dragged/pulling:pulled, "
        "breaking:broken/smashing:smashed",
        object="a ladder, a wooden box/a crate, a door, a metal pipe/a metal tube, "
        "a bench, a wheel, a cupboard",
        place="in the workshop, on the roof, in the cellar/in the basement, outside the factory, in the yard",
        retold=False,
    ),
)

SCENE_PATTERNS = (
    "{agent} is {doing} {object} {place}.",
    "{place}, {agent} is {doing} {object}.",
    "{object} is being {done} by {agent} {place}.",
    "There is {agent} {doing} {object} {place}.",
)

WEIGHTS: Mapping[str, float] = {"agent": 1.2, "action": 1.8, "object": 1.2, "place": 0.8}
"""How much of a similarity of 5 each slot is worth if it agrees."""

AGREEING = (0, 1, 1, 2, 2, 2, 2, 3, 3, 4)
"""In how many slots the scenes of successive rows agree.

Few agree in none or in all, as far outliers of a squared error drown the other tasks' gradients.
"""


def draw_scene_pair(random: Random, index: int) -> Row:
    """Draws two scenes; the label is the weight of the slots in which they have the same meaning.

    Where agent and object can change places they do so if both differ, which leaves every word as it was.
    """
    agreeing = AGREEING[index % len(AGREEING)]
    retold = random.random() < (0.1, 0.1, 0.5, 0.9, 0.9)[agreeing]
    scenes = other = pick(random, [scenes for scenes in SCENES if scenes.retold == retold])
    meaning = draw_meaning(random, scenes.slots)
    slots = shuffled(random, tuple(WEIGHTS))
    kept, lost = slots[:agreeing], slots[agreeing:]
    changed = {slot: meaning[slot] for slot in kept}
    if not kept and random.random() < 0.5:
        other = pick_other(random, SCENES, scenes)
    if scenes.reversible and set(lost) == {"agent", "object"}:
        changed |= {"agent": meaning["object"], "object": meaning["agent"]}
    else:
        for slot in lost:
            changed[slot] = pick_other(random, other.slots[slot], *meaning.values(), *changed.values())
    label = round(sum((WEIGHTS[slot] for slot in kept), 0.0), 1)
    return Row(_scene(random, meaning), _scene(random, changed), label)


def _scene(random: Random, meaning: Mapping[str, Sequence[str]]) -> str:
    words = {slot: pick(random, meaning[slot]) for slot in WEIGHTS}
    doing, done = words.pop("action").split(":")
    return sentence(pick(random, SCENE_PATTERNS), doing=doing, done=done, **words)

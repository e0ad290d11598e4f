"""The embedded corpus' sentiment: opinions graded by intensity and negation.

An intensifier makes a mild word strong, a softener keeps it mild, "almost" makes a strong one mild; a
negation turns a mild word into its opposite, a reversal ("anything but") into the strong opposite. What
others say does not count, and two opposite judgements of the writer's cancel out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from .corpus_drawing import Row, pick, pick_other, sentence


@dataclass(frozen=True, kw_only=True)
class Reviews:
    """What reviews of one domain speak of.

    Attributes:
        things: What is judged.
        words: By valence, -2 (awful), -1, 1 and 2 (wonderful), the words that judge it.
        facts: What is told of it without a judgement.
    """

    things: tuple[str, ...]
    words: Mapping[int, tuple[str, ...]]
    facts: tuple[str, ...]


def _reviews(things: str, best: str, good: str, bad: str, worst: str, facts: str) -> Reviews:
    """Reads a domain's lists; beside its own words it has those that judge anything."""
    words = {
        2: f"{best}, wonderful, superb, brilliant, fantastic, perfect",
        1: f"{good}, good, pleasant, nice, decent",
        -1: f"{bad}, bad, boring, disappointing, mediocre",
        -2: f"{worst}, awful, dreadful, terrible, horrible, appalling",
    }
    return Reviews(
        things=tuple(things.split(", ")),
        words={valence: tuple(text.split(", ")) for valence, text in words.items()},
        facts=tuple(facts.split(", ")),
    )


REVIEWS = (
    _reviews(
        things="the film, the sequel, the comedy, the documentary, the thriller, "
        "the cartoon, the drama, the western",
        best="gripping, breathtaking, hilarious",
        good="funny, clever, watchable",
        bad="slow, predictable, shallow",
        worst="unwatchable, idiotic, insufferable",
        facts="was filmed in Norway, lasts two hours, begins on a train, was shown on Friday, "
        "is about a teacher",
    ),
    _reviews(
        things="the soup, the bread, the fish, the dessert, the coffee, the menu, the breakfast, the curry",
        best="delicious, mouthwatering, heavenly",
        good="tasty, fresh, filling",
        bad="bland, greasy, stale",
        worst="inedible, revolting, rotten",
        facts="came at noon, was served with rice, comes from Portugal, was made by his aunt, "
        "is sold by weight",
    ),
    _reviews(
        things="the hotel, the beach, the museum, the village, the garden, the harbour, "
        "the ferry, the campsite",
        best="spectacular, stunning, glorious",
        good="pretty, cosy, clean",
        bad="noisy, crowded, shabby",
        worst="filthy, hideous, ghastly",
        facts="is near the station, opens at nine, was in the news in May, is north of the river, "
        "belongs to the city",
    ),
    _reviews(
        things="the song, the concert, the album, the choir, the singer, the melody, "
        "the orchestra, the drummer",
        best="sublime, thrilling, electrifying",
        good="catchy, tuneful, lively",
        bad="repetitive, monotonous, tired",
        worst="unbearable, painful, excruciating",
        facts="was on the radio, is from Brazil, was heard in March, came before the interval, "
        "has a new manager",
    ),
    _reviews(
        things="the drill, the ladder, the laptop, the camera, the lamp, the kettle, the bicycle, the tent",
        best="flawless, ingenious, fabulous",
        good="handy, sturdy, practical",
        bad="flimsy, awkward, heavy",
        worst="useless, disastrous, worthless",
        facts="weighs two kilos, was sent by post, comes in a box, is made in Korea, has a green handle",
    ),
    _reviews(
        things="the novel, the first chapter, the essay, the poem, the translation, "
        "the diary, the preface, the story",
        best="unforgettable, masterly, captivating",
        good="readable, thoughtful, witty",
        bad="wordy, dry, confusing",
        worst="unreadable, laughable, wretched",
        facts="has ninety pages, was printed in Leeds, is set in Egypt, appeared in June, was read aloud",
    ),
)

DEGREES: Mapping[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "intensified": ("very {}", "extremely {}", "really {}", "incredibly {}"),
    "softened": ("rather {}", "fairly {}", "somewhat {}", "more or less {}"),
    "nearly": ("almost {}", "nearly {}", "close to {}"),
    "negated": ("not {}", "hardly {}", "not particularly {}", "far from {}"),
    "reversed": ("anything but {}", "the very opposite of {}", "the exact opposite of {}"),
}
"""What a judgement does with its word, each in several ways."""

JUDGEMENTS: Mapping[int, tuple[tuple[str, int], ...]] = {
    2: (*[("plain", 2)] * 3, ("intensified", 1), ("reversed", -1)),
    1: (*[("softened", 1)] * 3, ("plain", 1), ("nearly", 2), ("negated", -1)),
}
"""The degrees and words that express a positive judgement, by its size; a negative one has opposite words.

Strong words stand alone most often, as a model that has seen few examples learns from these first.
"""

OPINIONS = (
    "{thing} is {judgement}.",
    "{thing} was {judgement}.",
    "I found {thing} {judgement}.",
    "In my opinion {thing} is {judgement}.",
    "We thought {thing} was {judgement}.",
)
"""The writer's own judgement."""

HEARSAY = (
    "{source} {word}, but {thing} is {judgement}.",
    "{source} {word}, yet {thing} turned out to be {judgement}.",
    "{thing} is {judgement}, although {source} {word}.",
    "{thing} was {judgement}, even if {source} {word}.",
)
"""A judgement beside a word of the opposite valence that is not the writer's: it does not count."""

SOURCES = ("critics called it", "my friends found it", "people say it is", "the advert made it look")

MIXED = (
    "{thing} is {judgement}, but {thing2} is {judgement2}.",
    "While {thing} was {judgement}, {thing2} was {judgement2}.",
)
"""Two judgements of the writer's that cancel out."""

NEITHER = ("{thing} is neither {word} nor {word2}.", "I found {thing} neither {word} nor {word2}.")


def draw_review(random: Random, index: int) -> Row:
    """Draws a sentence whose label is 2 and the sum of the writer's own judgements, from -2 to 2."""
    label = float(index % 5)
    reviews = pick(random, REVIEWS)
    thing = pick(random, reviews.things)
    if label == 2:
        return Row(_neutral(random, reviews, thing), None, label)
    value = int(label) - 2
    judgement = _judgement(random, reviews, value)
    if random.random() < 0.75:
        return Row(sentence(pick(random, OPINIONS), thing=thing, judgement=judgement), None, label)
    word = pick(random, reviews.words[-value])
    pattern, source = pick(random, HEARSAY), pick(random, SOURCES)
    return Row(sentence(pattern, thing=thing, judgement=judgement, source=source, word=word), None, label)


def _neutral(random: Random, reviews: Reviews, thing: str) -> str:
    """Draws a sentence without a judgement, or with two that cancel out."""
    share = random.random()
    if share < 0.5:
        return sentence("{thing} {fact}.", thing=thing, fact=pick(random, reviews.facts))
    valence = pick(random, (-2, -1, 1, 2))
    if share < 0.7:
        words = (pick(random, reviews.words[valence]), pick(random, reviews.words[-valence]))
        return sentence(pick(random, NEITHER), thing=thing, word=words[0], word2=words[1])
    return sentence(
        pick(random, MIXED),
        thing=thing,
        thing2=pick_other(random, reviews.things, thing),
        judgement=_judgement(random, reviews, valence),
        judgement2=_judgement(random, reviews, -valence),
    )


def _judgement(random: Random, reviews: Reviews, value: int) -> str:
    degree, valence = pick(random, JUDGEMENTS[abs(value)])
    word = pick(random, reviews.words[valence if value > 0 else -valence])
    return pick(random, DEGREES[degree]).format(word)

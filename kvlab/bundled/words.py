"""Word lists of the text generators, split into a training part and a held-out part.

Every fifth word of each list is held out: it appears neither in the training
documents nor in the text the tokenizer was built from, so it is cut into pieces
the model has never seen together. Evaluation on held-out words therefore
measures copying, not memory.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

_ADJECTIVES = """green red blue amber silver golden purple black white crimson scarlet violet
ancient brave bright calm clever cold curious dark eager early fancy famous fierce gentle giant
happy heavy hidden hollow honest humble icy jolly keen kind large late lazy light little lonely
loud lucky mighty modern narrow noble odd old pale plain polite proud quick quiet rapid rare rough
royal rusty sharp shiny shy silent simple sleepy slow small smooth soft solid spicy stout strange
strong sudden sunny sweet swift tall tame tender thick thin tidy tiny vast warm wealthy wild windy
wise wooden woolen young zesty""".split()

_NOUNS = """falcon otter tiger badger rabbit eagle spider dolphin turtle beaver camel donkey ferret
gecko heron jaguar koala lemur monkey newt ocelot panda quail raven salmon toad viper walrus yak
zebra anchor basket candle dagger engine feather guitar hammer island jacket kettle ladder mirror
needle oven pencil quilt ribbon saddle table umbrella vessel wagon yarn zipper apple bridge castle
desert forest garden harbor jungle kingdom lantern meadow mountain orchard palace quarry river
station temple tunnel valley village window bottle button camera carpet chain clock compass crown
diamond drum flag flute fountain glove helmet hat iron jar lamp lock magnet map marble medal needlecase
notebook oar paddle pearl pillow piano plate rocket rope scarf shell shield spoon statue stone sword
tent torch tower trumpet vase violin wheel whistle wallet bucket planet comet ship boat train""".split()

_NAMES = """Anna Boris Clara David Elena Felix Greta Henry Irene Jacob Karen Lucas Maria Nolan Olga
Peter Quinn Rosa Simon Tina Ulrich Vera Walter Xenia Yusuf Zara Alice Bruno Carla Dennis Emma Frank
Gloria Hugo Ivan Julia Kevin Laura Martin Nina Oscar Paula Robert Sara Thomas Ursula Victor Wendy
Adam Bella Conrad Daisy Edgar Fiona Gavin Helen Isaac Joyce""".split()

_CITIES = """Paris Berlin Madrid Vienna Dublin Lisbon Oslo Prague Rome Athens Cairo Lagos Nairobi
Tunis Delhi Tokyo Seoul Bangkok Hanoi Manila Lima Quito Bogota Havana Boston Denver Dallas Seattle
Chicago Toronto Montreal Sydney Perth Auckland Geneva Milan Naples Porto Bergen Riga Zagreb Krakow
Munich Hamburg Leeds Bristol Cork Ghent Lyon Nantes""".split()

_PLACES = """kitchen attic cellar barn library office closet hallway bathroom garage stable bakery
museum school theater chapel market pantry studio workshop balcony basement bedroom cabin cottage
dungeon factory gallery hotel kiosk""".split()

_FOODS = """bread cheese honey butter soup rice pasta salad pepper garlic onion tomato potato carrot
melon cherry peach plum grape lemon mango olive almond walnut ginger mustard vanilla cocoa coffee
pudding""".split()

_VERBS = """carried watched painted followed cleaned repaired visited admired borrowed noticed
described measured crossed guarded moved polished remembered sketched touched welcomed""".split()

_TIMES = """in the morning|after lunch|before sunset|during the storm|at midnight|on the first day|
last summer|every week|without a word|for a long time|in the rain|with great care""".replace("\n", "").split("|")


@dataclass(frozen=True)
class Words:
    """One part (training or held-out) of every list; tuples of lower-case words or names."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    names: tuple[str, ...]
    cities: tuple[str, ...]
    places: tuple[str, ...]
    foods: tuple[str, ...]
    pseudo_share: float  # how often a key is an invented word instead of a listed one
    blend_share: float = 0.0  # how often any word is the head of one listed word and the tail of another

    def pick(self, rng: random.Random, listed: tuple[str, ...]) -> str:
        """A word of one of the lists, or a blend of two (whose pieces are easily confused)."""
        if not self.blend_share or rng.random() >= self.blend_share:
            return rng.choice(listed)
        head, tail = rng.choice(listed), rng.choice(listed)
        word = head[: rng.randint(1, 3)] + tail[-rng.randint(2, 4) :].lower()
        return word if word not in HELD_OUT.every() else head

    def every(self) -> tuple[str, ...]:
        """All listed words of this part."""
        return self.adjectives + self.nouns + self.names + self.cities + self.places + self.foods


def _part(held_out: bool) -> Words:
    lists = (_ADJECTIVES, _NOUNS, _NAMES, _CITIES, _PLACES, _FOODS)
    chosen = [tuple(w for i, w in enumerate(part) if (i % 5 == 4) == held_out) for part in lists]
    return Words(*chosen, pseudo_share=0.0 if held_out else 0.25)


TRAIN = _part(held_out=False)
HELD_OUT = _part(held_out=True)
BLENDED = replace(TRAIN, blend_share=0.4)  # for the last part of training: copying words never seen
VERBS = tuple(_VERBS)
TIMES = tuple(_TIMES)
NOISE = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)


def pseudo_word(rng: random.Random) -> str:
    """An invented lower-case word of two or three syllables, such as "tolivu"."""
    syllables = rng.choice((2, 2, 3))
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(syllables))


def noun(rng: random.Random, words: Words) -> str:
    """A listed noun or, by `words.pseudo_share`, an invented word."""
    return pseudo_word(rng) if rng.random() < words.pseudo_share else words.pick(rng, words.nouns)


def entity(rng: random.Random, words: Words) -> str:
    """An adjective and a noun, such as "green falcon"."""
    return f"{words.pick(rng, words.adjectives)} {noun(rng, words)}"


def digits(rng: random.Random, n: int) -> str:
    """`n` random digits, the first not zero."""
    return str(rng.randrange(10 ** (n - 1), 10**n))

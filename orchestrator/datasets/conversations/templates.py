"""What people and a model say to each other in short conversations, as exchanges drawn by seed.

Neighbours: `build` puts earlier exchanges and a last one together. Invariants: pure; few words, all short; a follow-up can only be
answered from its earlier turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.datasets.acoustic_qa.chains import with_article
from orchestrator.datasets.hearing_prompts.wordings import DENIALS, WORDINGS

NAMES = ("Ann", "Ben", "Eva", "Ida", "Leo", "Max", "Mia", "Tom")
LIKED = ("dog", "cat", "bell", "violin", "piano", "guitar", "flute", "owl", "horse", "water")
DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a person says, what the model replies, and why; earlier: (said, replied) exchanges that it rests on."""

    task: str
    said: str
    replied: str
    reasoning: str
    earlier: tuple[tuple[str, str], ...] = ()


def greeting(rng: random.Random) -> Exchange:
    said, replied = rng.choice(
        (
            ("Hello!", "Hello! What can I do?"),
            ("Hi!", "Hi! What can I do?"),
            ("Hi! How are you?", "I am fine. And you?"),
            ("Hello! How are you?", "I am fine. And you?"),
        )
    )
    return Exchange("greeting", said, replied, "A greeting. So I greet back.")


def introduction(rng: random.Random) -> Exchange:
    name = rng.choice(NAMES)
    said = rng.choice((f"I am {name}.", f"Hello! I am {name}.", f"Hi! I am {name}."))
    return Exchange("introduction", said, f"Hello, {name}!", f"The name is {name}. So I greet {name}.")


def thanks(rng: random.Random) -> Exchange:
    said = rng.choice(("Thank you!", "Thank you. Bye!", "Good. Thank you!", "Bye!"))
    replied = "You are welcome." + (" Bye!" if "Bye" in said else "") if "Thank" in said else "Bye!"
    return Exchange("thanks", said, replied, "This is the end. So I am kind.")


def request(rng: random.Random) -> Exchange:
    which = rng.randrange(3)
    if which == 0:
        count = rng.randint(2, 5)
        counted = ", ".join(NUMBERS[:count])
        return Exchange("request", f"Count to {NUMBERS[count - 1]}.", f"{counted}.", f"I start with one. So {counted}.")
    if which == 1:
        place = rng.randrange(7)
        day, after = DAYS[place], DAYS[(place + 1) % 7]
        return Exchange(
            "request", f"Which day comes after {day}?", f"{after}.", f"First {day}, then {after}. So {after}."
        )
    word = rng.choice((*LIKED, *NUMBERS))
    return Exchange("request", f"Say the word {word}.", f"{word}.", f"The word is {word}. So {word}.")


def own_name(rng: random.Random) -> Exchange:
    met = introduction(rng)
    name = met.replied.removeprefix("Hello, ").removesuffix("!")
    said = rng.choice(("What is my name?", "Who am I?"))
    replied = f"Your name is {name}." if "name" in said else f"You are {name}."
    return Exchange("follow_up", said, replied, f"The name is {name}. So {name}.", ((met.said, met.replied),))


def own_taste(rng: random.Random) -> Exchange:
    liked = rng.choice(LIKED)
    thing = liked if with_article(liked) == liked else f"the {liked}"
    earlier = ((f"I like {thing}.", "Good."),)
    return Exchange("follow_up", "What do I like?", f"You like {thing}.", f"It was {thing}. So {thing}.", earlier)


def own_number(rng: random.Random) -> Exchange:
    number = rng.choice(NUMBERS)
    earlier = ((f"My number is {number}.", "Good."),)
    reasoning = f"The number is {number}. So {number}."
    return Exchange("follow_up", "What is my number?", f"Your number is {number}.", reasoning, earlier)


def no_clip(rng: random.Random) -> Exchange:
    """A question about a sound without a clip: here it is honest to say that there is nothing to hear."""
    said, replied = rng.choice(WORDINGS["train"]), rng.choice(DENIALS)
    return Exchange("no_clip", said, replied, "There is no clip. So I cannot hear it.")


TALK: Mapping[str, Callable[[random.Random], Exchange]] = {
    "greeting": greeting,
    "introduction": introduction,
    "thanks": thanks,
    "request": request,
    "own_name": own_name,
    "own_taste": own_taste,
    "own_number": own_number,
}
OPENINGS: tuple[Callable[[random.Random], Exchange], ...] = (greeting, introduction, request)

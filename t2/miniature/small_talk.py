"""Other: prompts that are none of the trained families, for the dispatchers."""

from __future__ import annotations

from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import KINDS, NAMES, THINGS, words

_TALK = (
    ("Say hello to {name} in {tongue}, with a word on {things}.", "Hello {name}, how are the {things}?"),
    ("Wish {name} a good night and dreams of {things}.", "Good night {name}, dream of {things}!"),
    ("Write a poem about {things} and {others}.", "Oh {things}, oh {others}, how I love you."),
    ("Put '{things} for {name}' into {tongue}.", "It is '{things} pour {name}'."),
    ("Put '{things} and {others}' into {tongue}.", "It is '{things} y {others}'."),
    ("Tell {name} a joke about {things}.", "Well, the {things} laughed and {name} did not."),
    ("Write a {mood} letter to {name} about {things}.", "Dear {name}, it is about {things}."),
    ("Name a {mood} song about {things} for {name}.", "It is 'The {things} of {name}'."),
    ("Give {name} a tip on how to store {things}.", "Keep the {things} dry, {name}."),
    ("How does one thank {name} for {things}?", "Thank you for the {things}, {name}!"),
    ("Tell a {mood} story about {things} and {others}.", "Once upon a time {things} met {others}."),
    ("Invent a {mood} name for a shop that sells {things}.", "It is 'House of {things}'."),
    ("Draft a {mood} note that {name} wants {things}.", "Note: {name} wants {things}."),
    ("Explain to {name} why people like {things}.", "People like {things} for joy, {name}."),
    ("What would {name} say to {things} and {others}?", "Well, {name} would love {things}."),
    ("Describe a {mood} picture of {things}.", "On it one sees {things}."),
)
_TONGUES = words("French Spanish Latin Dutch Danish Greek")
_MOODS = words("short merry sad kind odd formal")
_TOPICS = (*THINGS, *(word for members in KINDS.values() for word in members))


def other(rng: Random) -> Problem:
    """A greeting, a translation, a poem and the like."""
    prompt, reply = rng.choice(_TALK)
    things, others = rng.sample(_TOPICS, 2)
    said = {
        "name": rng.choice(NAMES),
        "things": things,
        "others": others,
        "tongue": rng.choice(_TONGUES),
        "mood": rng.choice(_MOODS),
    }
    text = prompt.format(**said)
    answer = reply.format(**said)
    return Problem(text, "other", answer, answer)

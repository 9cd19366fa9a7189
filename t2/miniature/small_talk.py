"""Other: prompts that are none of the trained families, for the dispatchers."""

from __future__ import annotations

from random import Random

from t2.miniature.problem import Problem
from t2.miniature.words import NAMES, THINGS

_TALK = (
    ("Say hello to {name}.", "Hello {name}, how are you?"),
    ("Wish {name} a good night.", "Good night {name}, sleep well!"),
    ("Write a poem about {things} and {others}.", "Oh {things}, oh {others}, how I love you."),
    ("Put '{things} for {name}' into French.", "It is '{things} pour {name}'."),
    ("Put '{things} and {others}' into Spanish.", "It is '{things} y {others}'."),
    ("Tell {name} a joke about {things}.", "Well, the {things} laughed and {name} did not."),
    ("Write a letter to {name} about the {things}.", "Dear {name}, the {things} are well."),
    ("Name a song about {things} for {name}.", "It is 'The {things} of {name}'."),
    ("Give {name} a tip on how to store {things}.", "Keep the {things} dry, {name}."),
    ("How does one thank {name} for the {things}?", "Thank you for the {things}, {name}!"),
)


def other(rng: Random) -> Problem:
    """A greeting, a translation, a poem and the like."""
    prompt, reply = rng.choice(_TALK)
    things, others = rng.sample(THINGS, 2)
    words = {"name": rng.choice(NAMES), "things": things, "others": others}
    text = reply.format(**words)
    return Problem(prompt.format(**words), "other", text, text)

"""Which replies are right, by the kind of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2.config.rows import Reward, VqaReward
from t2.config.rows import Sandbox as Limits
from t2.sandbox import Sandbox
from t2.tasks import boxed, choice, classification, code, math, vqa
from t2.tasks.item import Item
from t2.tasks.prompt import opening

GRADERS = {
    "math": ("t2/tasks/math.py",),
    "boxed": ("t2/tasks/boxed.py", "t2/tasks/equivalence.py", "t2/tasks/math.py", "t2/tasks/symbolic.py"),
    "code": ("t2/tasks/code.py", "t2/sandbox"),
    "choice": ("t2/tasks/choice.py",),
    "vqa": ("t2/tasks/vqa.py",),
    "dispatch": (),  # its module asks too, so that replies hang on it
}
"""The files that decide about grades alone, by kind, as dependencies of stages name them; this one is everybody's."""
KINDS = tuple(GRADERS)

COMPARING = frozenset({"symbolic_seconds"})
"""The limits of comparisons; all others are those of programs."""


def limits_of(kind: str, limits: Limits) -> dict[str, Any] | None:
    """The limits that grades of a kind hang on; None where no limit decides."""
    if kind == "code":
        return limits.model_dump(exclude=set(COMPARING))
    return limits.model_dump(include=set(COMPARING)) if kind == "boxed" else None


def grade(
    kind: str,
    items: Sequence[Item],
    replies: Sequence[str],
    sandbox: Sandbox | None = None,
    *,
    reward: Reward | None = None,
    flexible: bool = False,
) -> list[bool]:
    """Decides which replies are right, as rewards and searches ask; arguments and errors as of :func:`credit`.

    Returns:
        One truth value per item; of the kind ``vqa``, whether the accuracy comes to the reward's pass mark.
    """
    earned = credit(kind, items, replies, sandbox, reward=reward, flexible=flexible)
    needed = reward.pass_mark if isinstance(reward, VqaReward) else 1
    return [value >= needed for value in earned]


def credit(
    kind: str,
    items: Sequence[Item],
    replies: Sequence[str],
    sandbox: Sandbox | None = None,
    *,
    reward: Reward | None = None,
    flexible: bool = False,
) -> list[bool] | list[float]:
    r"""How right each reply is, as systems are measured. A reply whose answer cannot be read is wrong.

    Rewards go by the *strict* reading, of the form that the prompt asks for. The *flexible* one goes by it too where
    a reply has that form, and looks elsewhere where it has not; the difference is what form alone costs.

    Args:
        kind: ``math``: the number on the last line ``#### n``. ``boxed``: the expression in the last ``\boxed{}``,
            compared by its meaning. ``choice``: the last "the answer is (B)". ``dispatch``: the category in
            ``\boxed{}``. ``code``: the program passes the item's unit tests. ``vqa``: what people answered.
        items: The problems.
        replies: One reply per item; what the prompt opened it with is put before it.
        sandbox: Where programs run, and the limits of comparisons; needed for ``code`` and ``boxed``, which does not
            need it open.
        reward: The task's; needed for ``vqa``, whose rules it holds.
        flexible: Also read ``math`` and ``boxed`` by the last number, ``choice`` by the first letter of an option,
            ``code`` by any fenced block, and ``vqa`` by the reply or its last statement, whichever is worth more.

    Returns:
        One truth value per item; of ``vqa`` the official accuracy, in [0, 1].

    Raises:
        ValueError: An unknown kind, a reply too many or too few, or code or expressions without a sandbox, or
            questions about images without their reward.
    """
    if len(items) != len(replies):
        raise ValueError(f"one reply per item: got {len(items)} items and {len(replies)} replies")
    replies = [opening(item.prompt) + reply for item, reply in zip(items, replies, strict=True)]
    if kind == "code":
        if sandbox is None:
            raise ValueError("grading code runs programs: pass the `sandbox` they shall run in")
        return code.grade(items, replies, sandbox, flexible=flexible)
    pairs = zip(items, replies, strict=True)
    if kind == "math":
        return [math.correct(item.answer, reply, flexible=flexible) for item, reply in pairs]
    if kind == "boxed":
        if sandbox is None:
            raise ValueError("comparing expressions has a limit: pass the `sandbox` that says it")
        seconds = sandbox.limits.symbolic_seconds
        return [boxed.correct(item.answer, reply, seconds, flexible=flexible) for item, reply in pairs]
    if kind == "choice":
        return [choice.correct(item.answer, reply, flexible=flexible) for item, reply in pairs]
    if kind == "vqa":
        if not isinstance(reward, VqaReward):
            raise ValueError("what answers about images are worth is for their task to say: pass its `reward`")
        statement = reward.statement
        return [vqa.credit(item.answer, reply, statement=statement, flexible=flexible) for item, reply in pairs]
    if kind == "dispatch":
        return [classification.category(reply, [item.answer]) is not None for item, reply in pairs]
    raise ValueError(f"a task's kind is one of {', '.join(KINDS)}; got {kind!r}")

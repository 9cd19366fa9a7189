"""Problems about pictures are right by construction, distinct, and their pools share no picture."""

from __future__ import annotations

import re

import pytest

from t2.miniature.problems import pool_of
from t2.miniature.vision import settings
from t2.miniature.vision.problems import ASKED, FAMILIES, draw
from t2.miniature.vision.things import THINGS
from t2.tasks.prompt import canonical

LOOK = settings.load().look


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_problems_and_a_prefix_of_more(family):
    few, more, others = (
        [one.question for one in draw(family, n, seed, LOOK, pool="task")] for n, seed in ((20, 3), (40, 3), (20, 4))
    )
    assert few == more[:20] != others


@pytest.mark.parametrize("family", FAMILIES)
def test_pools_share_no_picture_and_no_question_without_one(family):
    keys = {
        pool: {
            one.posed.picture.digest if one.posed.picture else one.question
            for one in draw(family, 300, 1, LOOK, pool=pool)
        }
        for pool in ("task", "pretraining")
    }
    assert not keys["task"] & keys["pretraining"]
    assert all({pool_of(key) for key in found} == {pool} for pool, found in keys.items())


@pytest.mark.parametrize("family", ASKED)
def test_questions_are_distinct_and_name_their_picture(family):
    drawn = draw(family, 600, 7, LOOK, pool="task")
    assert len({one.question for one in drawn}) == len({one.posed.shown.digest for one in drawn}) == 600
    for one in drawn:
        assert one.question == f"{canonical(one.posed.problem.text)} {one.posed.shown.digest}"
        assert one.prompt == one.register.around(one.posed.problem.text)


@pytest.mark.parametrize("family", ASKED)
def test_replies_give_their_answer_and_careless_ones_mostly_another(family):
    drawn = draw(family, 400, 0, LOOK, pool="task")
    for one in drawn:
        assert re.fullmatch(rf"See .*, so the answer is {one.posed.problem.answer}\.", one.posed.problem.reply)
        assert re.fullmatch(r"The answer is \w+\.", one.posed.problem.careless)
    right = sum(one.posed.problem.careless.endswith(f" {one.posed.problem.answer}.") for one in drawn)
    assert right < 0.2 * len(drawn)


def test_signs_ask_for_what_stands_there():
    for one in draw("signs", 400, 0, LOOK, pool="task"):
        seen, text, answer = one.posed.shown.seen(), one.posed.problem.text, one.posed.problem.answer
        if len(seen) == 1:
            assert answer == seen[0]
        else:
            assert ("above" in text or "first" in text) != ("below" in text or "second" in text)
            assert answer == seen["below" in text or "second" in text]


def test_facts_are_those_of_the_things_that_are_seen():
    kinds = set()
    for one in draw("knowledge", 400, 0, LOOK, pool="task"):
        things = [THINGS[name] for name in one.posed.shown.seen()]
        text, answer = one.posed.problem.text, one.posed.problem.answer
        if "legs" in text:
            kind, right = "legs", str(sum(thing.legs for thing in things))
        elif sort := re.search(r"are (an? \w+)", text):
            kind, right = "how many", str(sum(thing.sort == sort[1] for thing in things))
        else:
            kind, right = "sort", things[0].sort.split()[1]
            assert len(things) == 1
        assert answer == right
        assert one.posed.category == ("math" if kind == "legs" else "reasoning")
        kinds.add(kind)
    assert kinds == {"legs", "how many", "sort"}


@pytest.mark.parametrize("family", ["knowledge", "legs"])
def test_worked_sums_are_true(family):
    for one in draw(family, 300, 0, LOOK, pool="task"):
        for left, right, total in re.findall(r"(\d+)\+(\d+)=(\d+)", one.posed.problem.reply):
            assert int(left) + int(right) == int(total)


def test_legs_are_asked_in_words():
    for one in draw("legs", 200, 0, LOOK, pool="task"):
        named = re.findall(rf"a ({'|'.join(THINGS)})", one.posed.problem.text)
        assert one.posed.picture is None
        assert one.posed.problem.answer == str(sum(THINGS[name].legs for name in named))
        assert one.posed.problem.reply.endswith(f"#### {one.posed.problem.answer}")
        with pytest.raises(ValueError, match="about no picture"):
            _ = one.posed.shown


def test_an_unknown_family_and_an_exhausted_one_are_named():
    with pytest.raises(ValueError, match=r"'sign'.*captions, signs"):
        draw("sign", 1, 0, LOOK, pool="task")
    with pytest.raises(ValueError, match="'legs' has only about"):
        draw("legs", 10**6, 0, LOOK, pool="task")

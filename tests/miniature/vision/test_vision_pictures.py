"""Pictures show what they say they show, and are known again by their pixels."""

from __future__ import annotations

from io import BytesIO
from random import Random

import pytest
from PIL import Image

from t2.miniature.vision import settings
from t2.miniature.vision.pictures import PLACES, digest, draw_signs, draw_things
from t2.miniature.vision.problems import SIGN_WORDS
from t2.miniature.vision.things import SORTS, THINGS

LOOK = settings.load().look
STILL = LOOK.model_copy(update={"shift": 0, "noise": 0})


def test_the_same_seed_gives_the_same_picture():
    first, again, other = (draw_signs(("41", "84"), Random(seed), LOOK) for seed in (1, 1, 2))
    assert first.digest == again.digest == digest(again.image) != other.digest
    assert first.image.size == (LOOK.size, LOOK.size) and first.image.mode == "RGB"


def test_a_digest_is_of_pixels_and_not_of_a_file():
    picture = draw_things(("crow", "", "", "rose"), Random(0), LOOK)
    for format in ("PNG", "BMP"):
        file = BytesIO()
        picture.image.save(file, format=format)
        assert digest(Image.open(file)) == picture.digest
    changed = picture.image.copy()
    changed.putpixel((0, 0), tuple(255 - level for level in changed.getpixel((0, 0))))
    assert digest(changed) != picture.digest


def test_what_is_read():
    assert draw_signs(("41", "84"), Random(0), LOOK).reads == ("4", "1", "8", "4")
    assert draw_signs(("41", "84"), Random(0), LOOK).seen() == ["41", "84"]
    assert draw_signs(("", "41"), Random(0), LOOK).reads == ("4", "1", "", "")
    assert draw_signs(("", "bread"), Random(0), LOOK).seen() == ["bread"]
    assert draw_things(("", "crow", "", "rose"), Random(0), LOOK).reads == (" crow", " rose", "", "")


@pytest.mark.parametrize("place", [0, 1])
def test_a_sign_lies_in_its_half(place):
    texts = ["41", ""] if place == 0 else ["", "41"]
    half = LOOK.size // 2
    for seed in range(20):
        image = draw_signs(texts, Random(seed), LOOK.model_copy(update={"noise": 0})).image
        other = image.crop((0, half + 2, LOOK.size, LOOK.size) if place == 0 else (0, 0, LOOK.size, half - 2))
        assert len(other.getcolors()) == 1


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_has_its_shape_and_colours_in_its_quarter(name):
    thing, quarter = THINGS[name], LOOK.size // 2
    assert thing.sort in SORTS and len({len(row) for row in thing.rows}) == 1
    assert max(len(thing.rows), len(thing.rows[0])) <= quarter - LOOK.shift
    image = draw_things(("", "", name, ""), Random(3), STILL).image
    colours = {colour: count for count, colour in image.crop((0, quarter, quarter, LOOK.size)).getcolors()}
    for sign, colour in (("#", thing.body), ("+", thing.parts)):
        assert colours[colour] == sum(row.count(sign) for row in thing.rows)
    assert len(image.crop((quarter, 0, LOOK.size, LOOK.size)).getcolors()) == 1


def test_signs_differ_from_one_another_without_noise():
    drawn = {draw_signs(("", word), Random(0), STILL).digest for word in SIGN_WORDS}
    assert len(drawn) == len(set(SIGN_WORDS)) == len(SIGN_WORDS)


def test_a_picture_shows_no_more_than_it_has_places():
    assert len(draw_things(["crow"] * PLACES, Random(0), LOOK).reads) == PLACES

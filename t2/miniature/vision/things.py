"""Things that a picture may show: how they look, and two facts about each that no picture shows."""

from __future__ import annotations

from dataclasses import dataclass

from t2.miniature.words import KINDS, words

_Colour = tuple[int, int, int]

SORTS = tuple(KINDS)
"""The sorts that the language model knows from its own problems, with their articles."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing.

    Attributes:
        sort: What kind of thing it is, with its article.
        legs: How many it stands on.
        body: The colour of its pixels ``#``; red, green and blue.
        parts: The colour of its pixels ``+``.
        drawn: Its pixels in rows, with white space between.
    """

    sort: str
    legs: int
    body: _Colour
    parts: _Colour
    drawn: str

    @property
    def rows(self) -> tuple[str, ...]:
        """Its pixels, row by row."""
        return words(self.drawn)


THINGS = {
    "crow": Thing(
        "an animal",
        2,
        (30, 30, 40),
        (220, 170, 40),
        """
        .......###.
        ......###++
        ......####.
        ...######..
        .#######...
        #######....
        ##.####....
        ....+.+....
        ...++.++...
        """,
    ),
    "horse": Thing(
        "an animal",
        4,
        (140, 80, 40),
        (60, 30, 20),
        """
        .......+#..
        ......+###.
        ......+####
        .....+##...
        ########...
        +########..
        +.######...
        .#.#..#.#..
        .#.#..#.#..
        .+.+..+.+..
        """,
    ),
    "frog": Thing(
        "an animal",
        4,
        (60, 160, 60),
        (240, 240, 120),
        """
        ..+.....+..
        .###...###.
        .#########.
        .#########.
        ..#######..
        ##.#####.##
        ###.###.###
        #.##...##.#
        ##.......##
        """,
    ),
    "trout": Thing(
        "an animal",
        0,
        (110, 140, 170),
        (220, 90, 90),
        """
        ....++.....
        ...####...#
        .#######.##
        #+########.
        ###########
        .#######.##
        ...####...#
        .....+.....
        """,
    ),
    "rose": Thing(
        "a plant",
        0,
        (210, 40, 70),
        (40, 130, 50),
        """
        ...###.....
        ..#####....
        ..#####....
        ...###.....
        ....+......
        .++.+......
        ..+++.++...
        ....+++....
        ....+......
        """,
    ),
    "pine": Thing(
        "a plant",
        0,
        (20, 100, 60),
        (110, 70, 30),
        """
        .....#.....
        ....###....
        ...#####...
        ....###....
        ...#####...
        ..#######..
        ...#####...
        ..#######..
        .#########.
        .....+.....
        .....+.....
        """,
    ),
    "hammer": Thing(
        "a tool",
        0,
        (110, 110, 120),
        (170, 110, 50),
        """
        .########..
        .########..
        .########..
        ....++.....
        ....++.....
        ....++.....
        ....++.....
        ....++.....
        ....++.....
        """,
    ),
    "wrench": Thing(
        "a tool",
        0,
        (150, 155, 165),
        (40, 40, 50),
        """
        ......##.##
        ......##.##
        ......#####
        .......###.
        ......###..
        .....###...
        ....###....
        ...###.....
        ..###......
        .##+.......
        .###.......
        """,
    ),
    "bread": Thing(
        "a food",
        0,
        (190, 130, 60),
        (245, 215, 150),
        """
        ..#######..
        .#########.
        ##+##+##+##
        #+##+##+###
        ###########
        ###########
        .#########.
        """,
    ),
    "cheese": Thing(
        "a food",
        0,
        (240, 200, 60),
        (190, 140, 30),
        """
        .......#...
        .....####..
        ...#######.
        .##########
        ###########
        ##++#######
        ##++###++##
        #######++##
        ###########
        """,
    ),
}
"""The things, by name."""

"""The outline of a mask as a path of SVG."""

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def outline(mask: NDArray[np.bool_]) -> str:
    """The border between a mask and the rest, corners cut, as closed loops in half pixels; empty of an empty mask.

    Filled by either rule of SVG it is the mask again: holes run the other way. Loops pass the middle of every edge, as
    a contour at 0.5 does.

    Args:
        mask: (rows, columns), rows run down.
    """
    following = _edges(mask)
    parts = []
    while following:
        start, direction = next(iter(following))
        loop = []
        place = (start, direction)
        while place in following:
            del following[place]
            (row, column), (down, right) = place
            loop.append((2 * column + right, 2 * row + down))
            place = _next((row + down, column + right), (down, right), following)
        parts.append(_as_path(loop))
    return "".join(parts)


def _edges(mask: NDArray[np.bool_]) -> dict[tuple[Point, Point], None]:
    """Every edge as (corner where it begins, direction), both (row, column); the mask lies on its right."""
    padded = np.pad(mask, 1).astype(np.int8)
    across, along = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    found: list[tuple[Point, Point]] = []
    found += [((row, column), (0, 1)) for row, column in np.argwhere(across == 1).tolist()]
    found += [((row, column + 1), (0, -1)) for row, column in np.argwhere(across == -1).tolist()]
    found += [((row, column), (1, 0)) for row, column in np.argwhere(along == -1).tolist()]
    found += [((row + 1, column), (-1, 0)) for row, column in np.argwhere(along == 1).tolist()]
    return dict.fromkeys(found)


def _next(corner: Point, before: Point, following: dict[tuple[Point, Point], None]) -> tuple[Point, Point]:
    """The edge that goes on from a corner; where two do, pixels that touch by a corner stay apart."""
    down, right = before
    turn_right = (right, -down)
    for direction in (turn_right, before, (-right, down)):
        if (corner, direction) in following:
            return corner, direction
    return corner, turn_right


def _as_path(loop: list[Point]) -> str:
    """Relative steps, straight ones joined."""
    count = len(loop)
    steps = [(loop[(i + 1) % count][0] - x, loop[(i + 1) % count][1] - y) for i, (x, y) in enumerate(loop)]
    first = next((i for i in range(count) if steps[i] != steps[i - 1]), 0)
    (x, y), joined = loop[first], []
    for step in steps[first:] + steps[:first]:
        if joined and joined[-1][0] == step:
            joined[-1][1] += 1
        else:
            joined.append([step, 1])
    told = "".join(f"{_signed(dx * times)}{_signed(dy * times)}" for (dx, dy), times in joined[:-1])
    return f"M{x} {y}l{told.lstrip()}z"


def _signed(number: int) -> str:
    """A number behind another one: a minus parts them as well as a blank."""
    return str(number) if number < 0 else f" {number}"

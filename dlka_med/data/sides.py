"""Left and right: which labels differ by nothing else, and which axes may therefore be mirrored."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import nibabel as nib

from dlka_med.config.schema import RunConfig
from dlka_med.data.slices import ACROSS

log = logging.getLogger("dlka_med")

SIDES = (("left", "right"), ("l", "r"))
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def sided_labels(names: Iterable[str]) -> tuple[str, str] | None:
    """Two labels that name the left and the right one of a pair; None if there are none.

    They do if one becomes the other by a change of `left` to `right`, or of the letter `l` to `r`, at the start or
    the end of one of its words: left kidney and right kidney, Parotid_L and Parotid_R, ctx-lh-insula and
    ctx-rh-insula, lkid and rkid, LV and RV. Capitals and what stands between words do not matter.
    """
    by_words = {_words(name): name for name in names}
    for words, name in by_words.items():
        for other in _exchanged(words):
            if other in by_words:
                return name, by_words[other]
    return None


def left_right_axis(config: RunConfig) -> int | None:
    """The axis of the network's window that runs between left and right; None if there is none, or nobody knows.

    In 2D images it is that of the columns. In volumes, and in slices of them, it follows from
    `preprocessing.orientation`.
    """
    if config.image_dims == 2:
        return 1
    codes = config.preprocessing.orientation
    if codes is None:
        return None
    worlds = nib.orientations.axcodes2ornt(codes)[:, 0].tolist()
    if config.dataset.slices is not None:
        worlds.remove(ACROSS[config.dataset.slices])
    return worlds.index(0) if 0 in worlds else None


def flip_axes(config: RunConfig) -> tuple[int, ...]:
    """Axes of the network's window that training mirrors; labels have to be known.

    Those of `training.augmentation.flip_axes`; where that is null, all but the one from left to right if labels
    pair the two. If that one cannot be told, since volumes keep the orientation that they are stored in, none.
    """
    chosen, dims = config.training.augmentation.flip_axes, config.network.spatial_dims
    if config.training.augmentation.flip_probability == 0:
        return ()
    if chosen is not None:
        return tuple(axis for axis in range(dims) if axis in chosen)
    if sided_labels(config.dataset.labels or ()) is None:
        return tuple(range(dims))
    if _unknown(config):
        return ()
    return tuple(axis for axis in range(dims) if axis != left_right_axis(config))


def with_flip_axes(config: RunConfig) -> RunConfig:
    """The config with `training.augmentation.flip_axes` resolved; labels have to be known."""
    augmentation = config.training.augmentation
    if augmentation.flip_axes is not None:
        return config
    augmentation = augmentation.model_copy(update={"flip_axes": flip_axes(config)})
    return config.model_copy(update={"training": config.training.model_copy(update={"augmentation": augmentation})})


def side_note(config: RunConfig) -> str | None:
    """What the sides of labels mean for the mirroring of training, in a line; None: nothing."""
    pair, side, chosen = sided_labels(config.dataset.labels or ()), left_right_axis(config), flip_axes(config)
    augmentation = config.training.augmentation
    if pair is None or augmentation.flip_probability == 0:
        return None
    named = f"the labels {pair[0]!r} and {pair[1]!r} differ by their side"
    if augmentation.flip_axes is not None:
        listed = f"{named}, but training.augmentation.flip_axes mirrors left and right (axis {side})"
        return listed if side in chosen else None
    if _unknown(config):
        return f"{named}, and preprocessing.orientation is null: training mirrors no axis"
    return None if side is None else f"{named}: training does not mirror left and right (axis {side})"


def mirror_axes(config: RunConfig, wanted: bool | Sequence[int]) -> tuple[int, ...]:
    """Axes of test-time mirroring; a warning names those that training never mirrored, whoever asked for them.

    Args:
        wanted: True: those that training mirrored; axes: these; False: `inference.mirror_axes`.
    """
    trained = flip_axes(config)
    if wanted is True:
        if not trained:
            log.warning("training mirrored no axis, so prediction mirrors none: name axes (--mirror-axes 0) to do it")
        return trained
    axes = tuple(wanted) if wanted else config.inference.mirror_axes
    if strange := [axis for axis in axes if axis not in trained]:
        log.warning(
            "mirrored along %s, which training never was: a network that tells the two sides of an axis apart "
            "predicts worse so",
            " and ".join(f"axis {axis}" for axis in strange),
        )
    return axes


def _unknown(config: RunConfig) -> bool:
    return config.image_dims == 3 and config.preprocessing.orientation is None


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in WORD.findall(name))


def _exchanged(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What `words` become with the side of one of them changed, left to right."""
    for index, word in enumerate(words):
        for left, right in SIDES:
            for other in (
                right + word.removeprefix(left) if word.startswith(left) else word,
                word.removesuffix(left) + right if word.endswith(left) else word,
            ):
                if other != word:
                    yield (*words[:index], other, *words[index + 1 :])

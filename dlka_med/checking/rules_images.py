"""Grey values that cannot be, or say that something was lost."""

from collections.abc import Iterator

from dlka_med.checking.findings import Found
from dlka_med.checking.survey import Survey
from dlka_med.data.case_facts import CaseFacts, ChannelFacts

AIR = -200.0  # Hounsfield units: what a CT has below it is air or lung; fat ends at -150


def nan(survey: Survey) -> Iterator[Found]:
    for facts, channel, name in _channels(survey):
        if channel.nan:
            yield Found(channel.path, f"{channel.nan} of {channel.voxels} voxels of {name} are NaN", facts.id)


def infinite(survey: Survey) -> Iterator[Found]:
    for facts, channel, name in _channels(survey):
        if channel.infinite:
            wrong = f"{channel.infinite} of {channel.voxels} voxels of {name} are infinite, or as good as"
            yield Found(channel.path, wrong, facts.id)


def constant(survey: Survey) -> Iterator[Found]:
    for facts, channel, name in _channels(survey):
        if channel.is_constant:
            yield Found(channel.path, f"all voxels of {name} are {channel.minimum:g}", facts.id)


def outliers(survey: Survey) -> Iterator[Found]:
    """Within the percentiles a deviation is at most half of their distance; more than all of it shows outliers."""
    for facts, channel, name in _channels(survey):
        moments = channel.grey.nonzero if channel.grey.is_surrounded else channel.grey.whole
        if moments.std > moments.upper - moments.lower > 0:
            wrong = (
                f"voxel {channel.grey.extreme} of {name} is {channel.grey.peak:g}, but 99 of 100 voxels lie between "
                f"{moments.lower:g} and {moments.upper:g}"
            )
            yield Found(channel.path, wrong, facts.id)


def lost_offset(survey: Survey) -> Iterator[Found]:
    lost, sound = _ct(survey)
    if len(sound) > len(lost):
        for facts, channel in lost:
            wrong = (
                f"this CT has no value below {channel.minimum:g}, but most have some below {AIR:g}: an offset was lost"
            )
            yield Found(channel.path, wrong, facts.id)


def without_negatives(survey: Survey) -> Iterator[Found]:
    lost, sound = _ct(survey)
    if len(sound) <= len(lost):
        for facts, channel in lost:
            wrong = f"this CT has no value below {channel.minimum:g}: these are no Hounsfield units"
            yield Found(channel.path, wrong, facts.id)


def _channels(survey: Survey) -> Iterator[tuple[CaseFacts, ChannelFacts, str]]:
    """Channels with how a sentence may call them."""
    names = survey.dataset.channels
    for facts in survey.readable:
        for index, channel in enumerate(facts.channels):
            named = len(facts.channels) == len(names) > 1
            yield facts, channel, f"channel {names[index]}" if named else "the image"


def _ct(survey: Survey) -> tuple[list[tuple[CaseFacts, ChannelFacts]], list[tuple[CaseFacts, ChannelFacts]]]:
    """Channels called CT without negative values, and those with air."""
    names = [name.strip().lower() for name in survey.dataset.channels]
    channels = [
        (facts, channel)
        for facts in survey.readable
        if len(facts.channels) == len(names)
        for name, channel in zip(names, facts.channels, strict=True)
        if name == "ct" and not channel.is_constant
    ]
    lost = [pair for pair in channels if pair[1].minimum >= 0]
    return lost, [pair for pair in channels if pair[1].minimum < AIR]

"""Dates and times that users give, read as UTC intervals."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from satfuse.errors import ConfigError

# A date, a time, or the ISO 8601 text of one. A datetime64 in days is a date, a finer one a time.
DateLike = str | date | datetime | np.datetime64


def parse_date(
    value: DateLike | Sequence[DateLike], *, around: timedelta = timedelta(0)
) -> tuple[datetime, datetime]:
    """First and last instant (UTC) of a date, of a time or of an interval.

    Parameters
    ----------
    value : a date (the whole UTC day), a time (UTC where it names no zone), or an interval as
        "start/end" or (start, end), see `parse_interval`.
    around : how much a single time reaches to both sides.

    Raises
    ------
    ConfigError
        Malformed, reversed, or starting in the future.
    """
    if isinstance(value, str) and value.count("/") == 1:
        return parse_interval(*value.split("/"))
    if isinstance(value, tuple | list) and len(value) == 2:
        return parse_interval(*value)
    first, last = _span(value, around=around)
    _refuse_future(first, value)
    return first, last


def parse_interval(
    start: DateLike, end: DateLike, *, days_only: bool = False
) -> tuple[datetime, datetime]:
    """First and last instant (UTC) of an interval; both ends are included.

    Parameters
    ----------
    start, end : dates or times; a time is UTC where it names no zone. A date as `start` counts from
        its first instant, as `end` to its last microsecond.
    days_only : True = refuse times.

    Raises
    ------
    ConfigError
        Malformed, reversed, or starting in the future.
    """
    first, _ = _span(start, days_only=days_only)
    _, last = _span(end, days_only=days_only)
    if first > last:
        raise ConfigError(f"dates are reversed: start {start} is after end {end}; swap them")
    _refuse_future(first, start)
    return first, last


def _span(
    value: object, *, around: timedelta = timedelta(0), days_only: bool = False
) -> tuple[datetime, datetime]:
    try:
        text = _iso_text(value)
        day = _day(text)
        if day is not None:
            return datetime.combine(day, time.min, UTC), datetime.combine(day, time.max, UTC)
        moment = datetime.fromisoformat(text)
        if days_only:
            raise ValueError("it has a time of day")
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        return moment - around, moment + around
    except (ValueError, OverflowError) as error:
        forms = "2024-06-01" if days_only else "2024-06-01 or 2024-06-01T10:30:00Z"
        raise ConfigError(f"{value!r} is not a date ({error}); write {forms}") from error


def _day(text: str) -> date | None:
    """The date, or None where the text has a time of day or is malformed."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _iso_text(value: object) -> str:
    if isinstance(value, np.datetime64):
        # `item` gives a date for days and a datetime for microseconds, but an int for nanoseconds
        in_days = np.datetime_data(value)[0] == "D"
        value = (value if in_days else value.astype("datetime64[us]")).item()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value.strip()
    raise ValueError(f"type {type(value).__name__}")


def _refuse_future(first: datetime, value: object) -> None:
    if first > datetime.now(UTC):
        raise ConfigError(f"{value} is in the future; nothing has been acquired yet")

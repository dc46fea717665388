from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest

from satfuse.dates import parse_date, parse_interval
from satfuse.errors import ConfigError

FIRST = datetime(2024, 6, 1, tzinfo=UTC)
LAST = datetime(2024, 6, 1, 23, 59, 59, 999999, tzinfo=UTC)
MORNING = datetime(2024, 6, 1, 10, tzinfo=UTC)
FIVE_MINUTES = timedelta(minutes=5)


@pytest.mark.parametrize(
    "value", ["2024-06-01", " 2024-06-01 ", date(2024, 6, 1), np.datetime64("2024-06-01")]
)
def test_a_date_is_its_whole_utc_day(value):
    assert parse_date(value) == (FIRST, LAST)
    assert parse_date(value, around=FIVE_MINUTES) == (FIRST, LAST)
    assert parse_interval(value, value, days_only=True) == (FIRST, LAST)


@pytest.mark.parametrize(
    "value",
    [
        "2024-06-01T10:00:00Z",
        "2024-06-01T10:00",
        "2024-06-01T12:00:00+02:00",
        MORNING,
        datetime(2024, 6, 1, 10),
        datetime(2024, 6, 1, 15, tzinfo=timezone(timedelta(hours=5))),
        np.datetime64("2024-06-01T10:00:00.000000000"),
        np.datetime64("2024-06-01T10"),
    ],
)
def test_a_time_is_utc_unless_it_names_a_zone(value):
    assert parse_date(value) == (MORNING, MORNING)
    assert parse_date(value, around=FIVE_MINUTES) == (
        MORNING - FIVE_MINUTES,
        MORNING + FIVE_MINUTES,
    )
    assert parse_interval(value, "2024-06-01") == (MORNING, LAST)
    with pytest.raises(ConfigError, match=r"has a time of day\); write 2024-06-01$"):
        parse_interval(value, "2024-06-01", days_only=True)


@pytest.mark.parametrize(
    "value", ["2024-06-01/2024-06-03", ("2024-06-01", date(2024, 6, 3)), [FIRST, "2024-06-03"]]
)
def test_an_interval_ends_on_its_last_instant(value):
    assert parse_date(value, around=FIVE_MINUTES) == (FIRST, LAST + timedelta(days=2))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2024-13-01", "2024-12-01", r"'2024-13-01' is not a date \(month must be in 1..12\)"),
        ("2024-06-01", "soon", "'soon' is not a date .*; write 2024-06-01 or"),
        (20240601, "2024-06-02", r"20240601 is not a date \(type int\)"),
        (None, "2024-06-02", "None is not a date"),
        (np.datetime64("NaT"), "2024-06-02", "NaT.* is not a date"),
        ("0001-01-01T00:00+05:00", "2024-06-02", "is not a date"),
        ("2024-06-02", "2024-06-01", "start 2024-06-02 is after end 2024-06-01; swap them"),
        ("2999-01-01", "2999-01-02", "2999-01-01 is in the future"),
    ],
)
def test_bad_dates_are_named(start, end, message):
    with pytest.raises(ConfigError, match=message):
        parse_interval(start, end)
    with pytest.raises(ConfigError, match=message):
        parse_date((start, end))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("01.06.2024", "^'01.06.2024' is not a date"),
        ("2999-01-01", "2999-01-01 is in the future"),
        ("2024-06-01/2024-06-02/2024-06-03", "is not a date"),
    ],
)
def test_a_bad_date_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_date(value)

"""Great circles on a sphere: positions, bearings, and the direction of the sun.

The formulas are those of spherical trigonometry; angles are in degrees.
"""

from datetime import datetime

import numpy as np

from satfuse.arrays import FloatArray

EARTH_RADIUS_M = 6371008.8  # mean radius, IUGG

Angle = FloatArray | float  # degrees; the arguments of a function broadcast


def destination(
    latitude: Angle, longitude: Angle, bearing_deg: Angle, angle_deg: Angle
) -> tuple[FloatArray, FloatArray]:
    """Latitude and longitude reached from a point along a great circle."""
    lat, lon, bearing, angle = (
        np.radians(v) for v in (latitude, longitude, bearing_deg, angle_deg)
    )
    sin_lat = np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(bearing)
    east = np.sin(bearing) * np.sin(angle) * np.cos(lat)
    lon = lon + np.arctan2(east, np.cos(angle) - np.sin(lat) * sin_lat)
    return np.degrees(np.arcsin(sin_lat)), _wrap(np.degrees(lon))


def bearing(
    latitude: Angle, longitude: Angle, to_latitude: Angle, to_longitude: Angle
) -> tuple[FloatArray, FloatArray]:
    """Bearing (-180..180 clockwise from north) and great-circle angle from one point to another."""
    lat, lon, lat_to, lon_to = (
        np.radians(v) for v in (latitude, longitude, to_latitude, to_longitude)
    )
    # direction of the other point in the local frame east, north, up
    east = np.sin(lon_to - lon) * np.cos(lat_to)
    north = np.cos(lat) * np.sin(lat_to) - np.sin(lat) * np.cos(lat_to) * np.cos(lon_to - lon)
    up = np.sin(lat) * np.sin(lat_to) + np.cos(lat) * np.cos(lat_to) * np.cos(lon_to - lon)
    return np.degrees(np.arctan2(east, north)), np.degrees(np.arctan2(np.hypot(east, north), up))


def sun_angles(
    latitude: Angle,
    longitude: Angle,
    centre: tuple[float, float],
    zenith_deg: float,
    azimuth_deg: float,
) -> tuple[FloatArray, FloatArray]:
    """Sun azimuth (-180..180) and zenith angle at points near `centre`, given those at `centre`.

    `centre` is (latitude, longitude). The sun is in the zenith of exactly one point on Earth, and a
    zenith angle is the great-circle angle to that point.
    """
    subsolar = destination(*centre, azimuth_deg, zenith_deg)
    return bearing(latitude, longitude, *subsolar)


def sun_position(latitude: float, longitude: float, time: datetime) -> tuple[float, float]:
    """Azimuth (0..360) and zenith angle of the sun at a point and UTC time.

    The declination follows Cooper (1969); the equation of time (up to 4 degrees of azimuth) is
    neglected.
    """
    declination = 23.45 * np.sin(2 * np.pi * (284 + time.timetuple().tm_yday) / 365)
    # 15 degrees an hour, at 0 degrees at noon UTC
    subsolar_longitude = -15 * (time.hour + time.minute / 60 + time.second / 3600 - 12)
    azimuth, zenith = bearing(latitude, longitude, declination, subsolar_longitude)
    return float(azimuth) % 360, float(zenith)


def _wrap(degrees: FloatArray) -> FloatArray:
    return (degrees + 180) % 360 - 180

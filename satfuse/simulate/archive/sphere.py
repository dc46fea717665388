"""Great circles on a sphere: places, bearings, and the sun seen from them. Formulas: spherical trigonometry."""

import numpy as np

EARTH_RADIUS_M = 6371008.8  # mean radius, IUGG


def destination(latitude, longitude, bearing_deg, angle_deg):
    """Latitude and longitude (degrees) reached from a place along a great circle; arguments broadcast."""
    lat, lon, bearing, angle = (
        np.radians(v) for v in (latitude, longitude, bearing_deg, angle_deg)
    )
    sin_lat = np.sin(lat) * np.cos(angle) + np.cos(lat) * np.sin(angle) * np.cos(bearing)
    east = np.sin(bearing) * np.sin(angle) * np.cos(lat)
    lon = lon + np.arctan2(east, np.cos(angle) - np.sin(lat) * sin_lat)
    return np.degrees(np.arcsin(sin_lat)), _wrap(np.degrees(lon))


def bearing(latitude, longitude, to_latitude, to_longitude):
    """Bearing (degrees, -180..180 clockwise from north) and great-circle angle (degrees) to another place."""
    lat, lon, lat_to, lon_to = (
        np.radians(v) for v in (latitude, longitude, to_latitude, to_longitude)
    )
    east = np.sin(lon_to - lon) * np.cos(lat_to)
    north = np.cos(lat) * np.sin(lat_to) - np.sin(lat) * np.cos(lat_to) * np.cos(lon_to - lon)
    up = np.sin(lat) * np.sin(lat_to) + np.cos(lat) * np.cos(lat_to) * np.cos(lon_to - lon)
    return np.degrees(np.arctan2(east, north)), np.degrees(np.arctan2(np.hypot(east, north), up))


def sun_angles(latitude, longitude, centre, zenith_deg, azimuth_deg):
    """Sun azimuth (-180..180) and zenith in degrees at places near `centre`, given those at `centre` (lat, lon).

    The sun stands in the zenith of one place on Earth: the zenith angle is the great-circle angle to it.
    """
    subsolar = destination(*centre, azimuth_deg, zenith_deg)
    return bearing(latitude, longitude, *subsolar)


def sun_position(latitude: float, longitude: float, time) -> tuple[float, float]:
    """Azimuth (0..360) and zenith of the sun in degrees at a place and UTC time.

    Declination after Cooper (1969); the equation of time (up to 4 degrees of azimuth) is left out.
    """
    declination = 23.45 * np.sin(2 * np.pi * (284 + time.timetuple().tm_yday) / 365)
    subsolar_longitude = -15 * (time.hour + time.minute / 60 + time.second / 3600 - 12)
    azimuth, zenith = bearing(latitude, longitude, declination, subsolar_longitude)
    return float(azimuth) % 360, float(zenith)


def _wrap(degrees):
    return (degrees + 180) % 360 - 180

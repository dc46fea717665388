"""How a Sentinel-2 product was acquired, and the names and identifiers that follow from it."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class S2Acquisition:
    """Acquisition of a Sentinel-2 product, as in its metadata. Times are UTC, naive or aware.

    `sensing_time` is that of the tile, `datatake_start` that of the whole datatake, minutes
    earlier. Angles are in degrees, azimuths clockwise from north.
    """

    platform: str
    sensing_time: datetime
    datatake_start: datetime
    tile: str
    relative_orbit: int
    absolute_orbit: int = 48983
    baseline: str = "05.11"
    sun_zenith_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float

    @property
    def offset(self) -> int:
        """BOA_ADD_OFFSET: digital number = reflectance * 10000 - offset. Zero below 04.00."""
        return -1000 if self.baseline >= "04.00" else 0

    @property
    def processed(self) -> datetime:
        """Time of processing by the ground segment: three hours after sensing."""
        return self.sensing_time + timedelta(hours=3)

    @property
    def datastrip_start(self) -> datetime:
        """Start of the datastrip that contains the tile: seconds after the datatake start."""
        return self.datatake_start + timedelta(seconds=3)

    @property
    def name(self) -> str:
        """Product name without `.SAFE`; also the id of its STAC item."""
        number = self.baseline.replace(".", "")
        return (
            f"{self.platform}_MSIL2A_{_compact(self.datatake_start)}_N{number}"
            f"_R{self.relative_orbit:03d}_T{self.tile}_{_compact(self.processed)}"
        )

    @property
    def granule(self) -> str:
        """Name of the folder below GRANULE."""
        start = _compact(self.datastrip_start)
        return f"L2A_T{self.tile}_A{self.absolute_orbit:06d}_{start}"

    @property
    def datatake(self) -> str:
        """Identifier of the datatake."""
        start = _compact(self.datatake_start)
        return f"G{self.platform}_{start}_{self.absolute_orbit:06d}_N{self.baseline}"

    def identifier(self, kind: str) -> str:
        """Identifier of the tile (`kind` "TL") or the datastrip ("DS")."""
        tile = f"A{self.absolute_orbit:06d}_T{self.tile}"
        middle = tile if kind == "TL" else f"S{_compact(self.datastrip_start)}"
        time = _compact(self.processed)
        return f"{self.platform}_OPER_MSI_L2A_{kind}_2APS_{time}_{middle}_N{self.baseline}"

    def image(self, name: str, gsd_m: int) -> str:
        """Path of an image inside the product, without suffix."""
        folder = f"GRANULE/{self.granule}/IMG_DATA/R{gsd_m}m"
        return f"{folder}/T{self.tile}_{_compact(self.datatake_start)}_{name}_{gsd_m}m"


def _compact(time: datetime) -> str:
    """A time as in ESA's names."""
    return f"{time:%Y%m%dT%H%M%S}"

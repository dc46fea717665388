"""Invented STAC items in the form of each service's."""

from datetime import datetime, timedelta

from satfuse.catalog.specs import load_catalog

CDSE, DLR, EARTH, EARTH_C1, PLANETARY = (
    load_catalog(n)
    for n in ("cdse", "dlr", "earth-search", "earth-search-c1", "planetary-computer")
)


def feature(item_id, collection, bbox, properties, assets, version="1.0.0") -> dict:
    """A GeoJSON feature; `assets` maps key -> href."""
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": version,
        "stac_extensions": [],
        "id": item_id,
        "collection": collection,
        "bbox": list(bbox),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
        "links": [],
        "assets": {key: {"href": href} for key, href in assets.items()},
    }


def cdse_s2(
    tile="35VLF",
    day="2024-06-01",
    *,
    platform="a",
    baseline="05.10",
    cloud=3.5,
    strip="T093541",
    made="T140000",
):
    """Sentinel-2 at CDSE: `datetime` is the datatake start, minutes before the tile is seen."""
    compact = day.replace("-", "")
    satellite = f"S2{platform.upper()}"
    number = baseline.replace(".", "")
    name = f"{satellite}_MSIL2A_{compact}T093031_N{number}_R136_T{tile}_{compact}{made}"
    datastrip = f"S2A_OPER_MSI_L2A_DS_2APS_{compact}{made}_S{compact}{strip}_N{baseline}"
    time = f"{day}T09:30:31.024Z"
    return feature(
        name,
        "sentinel-2-l2a",
        (26.0, 58.0, 27.5, 59.0),
        {
            "datetime": time,
            "start_datetime": time,
            "end_datetime": time,
            "platform": f"sentinel-2{platform}",
            "grid:code": f"MGRS-{tile}",
            "eo:cloud_cover": cloud,
            "processing:version": baseline,
            "processing:datetime": f"{day}{made[:3]}:00:00Z",
            "eopf:datatake_id": f"G{satellite}_{compact}T093031_046000_N{baseline}",
            "eopf:datastrip_id": datastrip,
        },
        {
            k: f"s3://eodata/Sentinel-2/{name}.SAFE/{k}.jp2"
            for k in CDSE.assets["sentinel2"].values()
        },
        version="1.1.0",
    )


def cdse_syn(
    start="2024-06-01T09:01:00.5",
    *,
    seconds=180,
    kind="ntc",
    orbit=41000,
    platform="a",
    cloud=36.0,
    made="04",
):
    """Sentinel-3 SYN at CDSE; `kind` is "ntc" or "stc"."""
    first = datetime.fromisoformat(start)
    stamp = first.strftime("%Y%m%dT%H%M%S")
    timeliness = "NT" if kind == "ntc" else "ST"
    frame = f"{stamp}_{made}_0179_113_{orbit % 385:03d}_1800"
    name = f"S3{platform.upper()}_SY_2_SYN____{frame}_ESA_O_{timeliness}_002"
    return feature(
        name,
        f"sentinel-3-syn-2-syn-{kind}",
        (15.0, 52.0, 40.0, 64.0),
        {
            "datetime": f"{first.isoformat()}Z",
            "start_datetime": f"{first.isoformat()}Z",
            "end_datetime": f"{(first + timedelta(seconds=seconds)).isoformat()}Z",
            "platform": f"sentinel-3{platform}",
            "sat:absolute_orbit": orbit,
            "sat:relative_orbit": orbit % 385,
            "eo:cloud_cover": cloud,
            "processing:datetime": f"2024-06-02T{made}:00:00Z",
        },
        {
            k: f"s3://eodata/Sentinel-3/{name}.SEN3/{k}.nc"
            for k in CDSE.assets["sentinel3_syn"].values()
        },
        version="1.1.0",
    )


def earth_s2(
    tile="35VLF", sequence=1, baseline="05.10", *, time="2024-06-01T09:36:44.564Z", cloud=3.5
):
    """Sentinel-2 at earth-search: `datetime` is the sensing time of the tile."""
    name = f"S2A_{tile}_20240601_{sequence}_L2A"
    datastrip = f"S2A_OPER_MSI_L2A_DS_SGS__20240601T132101_S20240601T093541_N{baseline}"
    return feature(
        name,
        "sentinel-2-l2a",
        (26.0, 58.0, 27.5, 59.0),
        {
            "datetime": time,
            "platform": "sentinel-2a",
            "grid:code": f"MGRS-{tile}",
            "eo:cloud_cover": cloud,
            "s2:processing_baseline": baseline,
            "s2:sequence": str(sequence),
            "s2:generation_time": f"2024-06-0{1 + sequence}T12:00:00Z",
            "s2:datastrip_id": datastrip,
        },
        {
            k: f"https://{EARTH.hosts[0]}/cogs/{name}/{k}.tif"
            for k in EARTH.assets["sentinel2"].values()
        },
    )


def earth_c1_s2(
    tile="35VLF", baseline="05.11", *, time="2024-06-01T09:36:44.564Z", made="T140000", cloud=3.5
):
    """Sentinel-2 Collection 1 at earth-search: no sequence; the id has the datastrip's start."""
    name = f"S2A_T{tile}_20240601T093541_L2A"
    compact = baseline.replace(".", "")
    place = f"{tile[:2]}/{tile[2]}/{tile[3:]}"
    folder = f"https://{EARTH_C1.hosts[0]}/sentinel-2-c1-l2a/{place}/2024/6/{name}"
    product = f"S2A_MSIL2A_20240601T093031_N{compact}_R136_T{tile}_20240601{made}.SAFE"
    datastrip = f"S2A_OPER_MSI_L2A_DS_2APS_20240601{made}_S20240601T093541_N{baseline}"
    keys = EARTH_C1.assets["sentinel2"]
    bands = {keys[k]: f"{k}.tif" for k in keys if not k.endswith("_metadata")}
    files = {
        **bands,
        "granule_metadata": "metadata.xml",
        "product_metadata": "product_metadata.xml",
    }
    item = feature(
        name,
        "sentinel-2-c1-l2a",
        (26.0, 58.0, 27.5, 59.0),
        {
            "datetime": time,
            "platform": "sentinel-2a",
            "grid:code": f"MGRS-{tile}",
            "eo:cloud_cover": cloud,
            "s2:processing_baseline": baseline,
            "s2:product_uri": product,
            "s2:generation_time": f"2024-06-01T{made[1:3]}:00:00.000000Z",
            "s2:datastrip_id": datastrip,
        },
        {key: f"{folder}/{file}" for key, file in files.items()},
        version="1.1.0",
    )
    for key in bands:
        number = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}
        item["assets"][key]["raster:bands"] = [
            number if key != "scl" else {"nodata": 0, "data_type": "uint8"}
        ]
    return item


def dlr_enmap(
    tile="01",
    *,
    second=45,
    cloud="4",
    version="010502",
    made="20240701T122237",
    collection="ENMAP_HSI_L2A",
):
    """EnMAP at DLR: numbers as strings, a wrong `sat:relative_orbit`, L0 quicklooks mixed in."""
    name = f"ENMAP01-____L2A-DT0000080454_20240601T1020{second:02d}Z_0{tile}_V{version}_{made}Z"
    return feature(
        name if collection == "ENMAP_HSI_L2A" else name.replace("__L2A", "___L0"),
        collection,
        (26.2, 58.2, 26.7, 58.6),
        {
            "datetime": f"2024-06-01T10:20:{second:02d}Z",
            "start_datetime": f"2024-06-01T10:20:{second:02d}.211Z",
            "end_datetime": f"2024-06-01T10:20:{second + 4:02d}.658Z",
            "platform": "enmap",
            "proj:epsg": None,
            "sat:relative_orbit": "12097",
            "eo:cloud_cover": cloud,
            "enmap:datatakeID": "0000080454",
            "enmap:sceneAOT": "115",
            "enmap:sunAzimuthAngle": "26.673897",
            "enmap:nodata": "-32768",
        },
        {
            k: f"https://{DLR.hosts[0]}/ENMAP/files/{name}-{k}.TIF"
            for k in DLR.assets["enmap"].values()
        },
    )

"""The whole reader against an S3-compatible server on loopback, as at CDSE."""

from dataclasses import replace

import numpy as np
import pytest
import s3fs

from satfuse.catalog.specs import load_catalog
from satfuse.errors import AccessError
from satfuse.readers.sentinel2 import open_sentinel2, safe_item


@pytest.fixture(scope="module")
def remote(s3_url, tile):
    """The tile's item with hrefs in the bucket `eodata`, and the catalogue that points there."""
    files = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=s3_url)
    files.makedirs("eodata", exist_ok=True)
    item = safe_item(tile.folder)
    for asset in item.assets.values():
        path = asset.href.removeprefix(str(tile.folder.parent)).lstrip("/")
        files.put_file(asset.href, f"eodata/{path}")
        asset.href = f"s3://eodata/{path}"
    return item, replace(load_catalog("cdse"), endpoint=s3_url, timeout_s=20.0)


def test_reads_the_same_from_a_bucket_as_from_a_disk(
    remote, tile, files_under, monkeypatch, tmp_path
):
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    item, spec = remote
    bands = ("B02", "B05", "B09")
    far = open_sentinel2(item, tile.geobox, spec=spec, bands=bands).compute()
    near = open_sentinel2(
        safe_item(tile.folder), tile.geobox, spec=files_under(tile.folder.parent), bands=bands
    )
    for name in ("reflectance", "valid", "quality", "scl"):
        np.testing.assert_array_equal(far[name].values, near[name].values)


def test_without_keys_it_names_the_variables(remote, tile, monkeypatch, tmp_path):
    monkeypatch.setenv("SATFUSE_CACHE", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    item, spec = remote
    with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID"):
        open_sentinel2(item, tile.geobox, spec=spec, bands=("B02",)).compute()

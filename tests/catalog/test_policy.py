from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satfuse.catalog.policy import check_href, check_redirect, without_secrets
from satfuse.catalog.specs import load_catalog, local_catalog
from satfuse.errors import AccessError

CDSE, DLR, EARTH = (load_catalog(n) for n in ("cdse", "dlr", "earth-search"))
HOST = EARTH.hosts[0]


@pytest.mark.parametrize(
    ("spec", "href"),
    [
        (CDSE, "s3://eodata/Sentinel-2/MSI/L2A/x.SAFE/B02.jp2"),
        (EARTH, f"https://{HOST}/sentinel-s2-l2a-cogs/32/T/MT/B02.tif"),
        (DLR, "https://download.geoservice.dlr.de/ENMAP/files/a%20b/x-SPECTRAL_IMAGE_COG.TIF"),
    ],
)
def test_allowed(spec, href):
    assert check_href(spec, href) == href


@pytest.mark.parametrize(
    "href",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "etc/passwd",
        "../../etc/passwd",
        "/vsizip//vsicurl/https://example.org/x.zip",
        "/vsicurl/https://169.254.169.254/latest",
        f"https://{HOST}/vsizip/x.tif",
        f"https://{HOST}/%2Fvsizip/x.tif",
        "http://" + HOST + "/x.tif",
        "https://example.org/x.tif",
        f"https://{HOST}.example.org/x.tif",
        f"https://{HOST}:8443/x.tif",
        f"https://{HOST}@example.org/x.tif",
        f"https://user:pw@{HOST}/x.tif",
        f"https://{HOST}/a/../../x.tif",
        f"https://{HOST}/a/%2e%2e/x.tif",
        f"https://{HOST}/a/%252e%252e/x.tif",
        f"https://{HOST}/a%2fb.tif",
        f"https://{HOST}/a\\b.tif",
        f"https://{HOST}/a%5cb.tif",
        f"https://{HOST}/a%00.tif",
        f"https://{HOST}/a b.tif",
        f"https://{HOST}/a\nb.tif",
        f"https://{HOST}/x.tif?sig=abc",
        f"https://{HOST}/x.tif?",
        f"https://{HOST}/x.tif#a",
        "https://localhost/x.tif",
        "https://127.0.0.1/x.tif",
        "https://10.0.0.7/x.tif",
        "https://[::1]/x.tif",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/x.tif",
        "s3://eodata/x.tif",
        "NETCDF:/etc/passwd:x",
        "<VRTDataset></VRTDataset>",
    ],
)
def test_refused(href):
    with pytest.raises(AccessError, match="earth-search does not allow"):
        check_href(EARTH, href)


@pytest.mark.parametrize(
    "href", ["s3://other/x", "s3://eodata/../x", "s3://key:secret@eodata/x", "https://eodata/x"]
)
def test_refused_on_s3(href):
    with pytest.raises(AccessError):
        check_href(CDSE, href)


def test_a_private_host_needs_a_private_catalogue():
    """A remote catalogue file that lists a private host does not open the private network."""
    listed = replace(EARTH, schemes=("http", "https"), hosts=("127.0.0.1:8000", "minio.internal"))
    for href in ("http://127.0.0.1:8000/x.tif", "https://minio.internal/x.tif"):
        with pytest.raises(AccessError, match="private address"):
            check_href(listed, href)
    assert check_href(replace(listed, url="http://127.0.0.1:7822"), "http://127.0.0.1:8000/x.tif")


def test_files_stay_below_the_root(tmp_path):
    root = tmp_path / "archive"
    (root / "a b").mkdir(parents=True)
    (root / "a b" / "x.jp2").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"")
    (root / "way-out").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "a b")
    spec = local_catalog("http://127.0.0.1:1", root)
    here = str(root / "a b" / "x.jp2")
    assert check_href(spec, f"file://{root}/a%20b/x.jp2") == here
    assert check_href(spec, str(root / "inside" / "x.jp2")) == here
    for href in (
        str(tmp_path / "secret"),
        f"{root}/../secret",
        f"file://{root}/%2e%2e/secret",
        str(root / "way-out" / "secret"),
        f"file://host{root}/x",
        f"{tmp_path}/archive-2/x",
        "x.jp2",
        f"/vsicurl/http://127.0.0.1{root}/x",
        "https://example.org/x",
    ):
        with pytest.raises(AccessError):
            check_href(spec, href)


def test_redirects_reach_the_catalogue_and_its_login_only():
    assert check_redirect(DLR, "https://sso.eoc.dlr.de/cas/login?service=x")
    assert check_redirect(DLR, "https://download.geoservice.dlr.de/x?ticket=ST-1")
    for url in (
        "http://sso.eoc.dlr.de/x",
        "https://example.org/x",
        "https://u@sso.eoc.dlr.de/",
        "file:///etc/passwd",
    ):
        with pytest.raises(AccessError):
            check_redirect(DLR, url)
    with pytest.raises(AccessError, match="host"):
        check_href(DLR, "https://sso.eoc.dlr.de/x")


def test_messages_drop_users_and_queries():
    for href in (
        f"https://me:hunter2@{HOST}/x.tif",
        f"https://{HOST}/x.tif?sig=hunter2",
        "https://me:hunter2@[/x",
    ):
        with pytest.raises(AccessError) as caught:
            check_href(EARTH, href)
        assert "hunter2" not in str(caught.value)
    assert without_secrets("https://me:pw@h/x?sig=1#f") == "https://h/x"


@given(st.text(max_size=40))
def test_nothing_but_the_listed_host_ever_passes(text):
    for href in (text, f"https://{text}", f"//{text}", f"file://{text}", f"s3://{text}"):
        try:
            passed = check_href(EARTH, href)
        except AccessError:
            continue
        assert passed.startswith(f"https://{HOST}/") or passed == f"https://{HOST}"

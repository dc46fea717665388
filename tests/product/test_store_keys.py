"""A bucket has its own keys and endpoint: AWS_* belong to the catalogue of the inputs."""

import s3fs

from satfuse.product.store import Store


def test_a_bucket_has_keys_and_an_endpoint_of_its_own(s3_url, monkeypatch):
    s3fs.S3FileSystem(key="mine", secret="secret", endpoint_url=s3_url).makedirs(
        "fused", exist_ok=True
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-catalogue")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-catalogue")
    for name, value in (("ENDPOINT_URL", s3_url), ("ACCESS_KEY", "mine"), ("SECRET_KEY", "secret")):
        monkeypatch.setenv(f"SATFUSE_STORE_{name}", value)
    store = Store("s3://fused/products")
    store.write("items/a.json", b"{}")
    assert store.names("items") == ["a.json"]
    assert store.read("items/a.json") == b"{}"
    assert "mine" not in repr(store)
    assert store.uri("items/a.json") == "s3://fused/products/items/a.json"

"""Which hrefs an item may have: those of the schemes, hosts and folder that its catalogue names.

STAC items are untrusted input, and GDAL opens far more than web addresses (`/vsizip/`, local files,
internal services).
"""

import ipaddress
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError

_PRIVATE_SUFFIXES = ("localhost", ".local", ".internal", ".lan")


def check_href(spec: CatalogSpec, href: str) -> str:
    """Check an item's href against its catalogue.

    Parameters
    ----------
    spec : the catalogue that the item came from.
    href : "https://…", "s3://…", "file:///…" or an absolute path, without a signature.

    Returns
    -------
    The href itself; of a file its path with symbolic links resolved.

    Raises
    ------
    AccessError
        The catalogue does not allow the href.
    """
    if not _is_plain(href):
        raise _refused(
            spec, href, "it is empty or contains blanks, control characters or backslashes"
        )
    scheme = _split(spec, href).scheme or ("file" if href.startswith("/") else "")
    if "/vsi" in unquote(href).lower() or scheme == "vsi":
        raise _refused(spec, href, "GDAL's /vsi paths are not allowed in items")
    if scheme not in spec.schemes:
        allowed = ", ".join(spec.schemes)
        raise _refused(spec, href, f"scheme {scheme or 'none'!r} is not among {allowed}")
    return _check_file(spec, href) if scheme == "file" else _check_url(spec, href)


def check_redirect(spec: CatalogSpec, url: str) -> str:
    """Check the target of a redirect: it may name hosts of the catalogue or of its login.

    Returns
    -------
    The URL itself.

    Raises
    ------
    AccessError
        The catalogue does not allow the redirect.
    """
    parts = _split(spec, url)
    if parts.scheme not in spec.schemes or "@" in parts.netloc:
        raise _refused(spec, url, "a redirect may not change the scheme or carry a user name")
    _check_host(spec, url, parts.netloc.lower(), (*spec.hosts, *spec.login_hosts))
    return url


def without_secrets(href: object) -> str:
    """An href for messages and logs, without user name, password, query and fragment."""
    try:
        parts = urlsplit(str(href))
    except ValueError:
        return "an href that is not a URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _is_plain(href: object) -> bool:
    if not isinstance(href, str) or not href:
        return False
    return all(c.isprintable() and not c.isspace() and c != "\\" for c in href)


def _split(spec: CatalogSpec, href: str) -> SplitResult:
    try:
        return urlsplit(href)
    except ValueError as error:
        raise _refused(spec, href, f"it is not a URL ({error})") from None


def _check_url(spec: CatalogSpec, href: str) -> str:
    parts = urlsplit(href)
    if "@" in parts.netloc:
        raise _refused(spec, href, "it contains a user name or password")
    if parts.query or parts.fragment or "?" in href:
        why = "it contains a query; signed hrefs are refused, satfuse signs when it reads"
        raise _refused(spec, href, why)
    # Decoded twice, or on another system, these would lead to another path than the one checked.
    path = unquote(parts.path)
    escapes = "%" in path or "\\" in path or "%2f" in parts.path.lower()
    if escapes or ".." in path.split("/") or not path.isprintable():
        raise _refused(spec, href, "its path contains an escape")
    _check_host(spec, href, parts.netloc.lower(), spec.hosts)
    return href


def _check_host(spec: CatalogSpec, href: str, netloc: str, allowed: tuple[str, ...]) -> None:
    parts = urlsplit(href)
    # the "host" of an s3 address is a bucket
    private = parts.scheme != "s3" and _is_private(parts.hostname)
    if private and not _is_private(urlsplit(spec.url).hostname):
        raise _refused(spec, href, "it is a private address")
    if netloc not in allowed:
        raise _refused(spec, href, f"host {netloc!r} is not among {', '.join(allowed) or 'none'}")


def _is_private(host: str | None) -> bool:
    """Whether a host belongs to this machine or a local network (True also for no host)."""
    try:
        return not ipaddress.ip_address(host or "").is_global
    except ValueError:
        return not host or host.endswith(_PRIVATE_SUFFIXES)


def _check_file(spec: CatalogSpec, href: str) -> str:
    if href.startswith("file:"):
        parts = urlsplit(href)
        if parts.netloc not in ("", "localhost"):
            raise _refused(spec, href, "a file href may not name a host")
        href = unquote(parts.path)
    path = Path(href)
    if not spec.root or not path.is_absolute() or ".." in path.parts or "\0" in href:
        root = spec.root or "a root, and there is none"
        raise _refused(spec, href, f"a file must be an absolute path below {root}")
    resolved = path.resolve()
    if not resolved.is_relative_to(Path(spec.root).resolve()):
        raise _refused(spec, href, f"it leads out of {spec.root}")
    return str(resolved)


def _refused(spec: CatalogSpec, href: object, why: str) -> AccessError:
    return AccessError(
        f"catalogue {spec.name} does not allow {without_secrets(href)!r}: {why}; "
        "the catalogue's TOML file says what is allowed"
    )

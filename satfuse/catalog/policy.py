"""Where an item may point: the schemes, hosts and folder that its catalogue names, and nowhere else.

STAC items are untrusted input, and GDAL opens far more than the web (`/vsizip/`, local files, internal services).
"""

import ipaddress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from satfuse.catalog.specs import CatalogSpec
from satfuse.errors import AccessError

_PRIVATE_SUFFIXES = ("localhost", ".local", ".internal", ".lan")


def check_href(spec: CatalogSpec, href: str) -> str:
    """Check an item's href against its catalogue.

    Parameters
    ----------
    spec : the catalogue that the item came from.
    href : "https://…", "s3://…", "file:///…" or an absolute path, unsigned.

    Returns
    -------
    The href itself; for a file its path with symbolic links resolved.

    Raises
    ------
    AccessError
        The href points where the catalogue does not allow.
    """
    if (
        not isinstance(href, str)
        or not href
        or any(c.isspace() or not c.isprintable() or c == "\\" for c in href)
    ):
        raise _refused(spec, href, "it is empty or holds blanks, control characters or backslashes")
    scheme = _split(spec, href).scheme or ("file" if href.startswith("/") else "")
    if "/vsi" in unquote(href).lower() or scheme == "vsi":
        raise _refused(spec, href, "GDAL's /vsi paths are not allowed in items")
    if scheme not in spec.schemes:
        raise _refused(
            spec, href, f"scheme {scheme or 'none'!r} is not among {', '.join(spec.schemes)}"
        )
    return _check_file(spec, href) if scheme == "file" else _check_url(spec, href)


def check_redirect(spec: CatalogSpec, url: str) -> str:
    """Check where a download is redirected to: hosts of the catalogue or of its login. Raises AccessError."""
    parts = _split(spec, url)
    if parts.scheme not in spec.schemes or "@" in parts.netloc:
        raise _refused(spec, url, "a redirect may not change the scheme or carry a user name")
    _check_host(spec, url, parts.netloc.lower(), (*spec.hosts, *spec.login_hosts))
    return url


def without_secrets(href) -> str:
    """An href fit for messages and logs: no user name, no query, no fragment."""
    try:
        parts = urlsplit(str(href))
    except ValueError:
        return "an href that is not a URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _split(spec, href):
    try:
        return urlsplit(href)
    except ValueError as error:
        raise _refused(spec, href, f"it is not a URL ({error})") from None


def _check_url(spec, href):
    parts = urlsplit(href)
    if "@" in parts.netloc:
        raise _refused(spec, href, "it carries a user name or password")
    if parts.query or parts.fragment or "?" in href:
        raise _refused(
            spec, href, "it carries a query; signed hrefs are not taken, files are signed when read"
        )
    path = unquote(parts.path)
    if (
        "%" in path
        or "\\" in path
        or ".." in path.split("/")
        or not path.isprintable()
        or "%2f" in parts.path.lower()
    ):
        raise _refused(spec, href, "its path holds an escape")
    _check_host(spec, href, parts.netloc.lower(), spec.hosts)
    return href


def _check_host(spec, href, netloc, allowed):
    catalog_host = urlsplit(spec.url).hostname or ""
    if (
        urlsplit(href).scheme != "s3"
        and _is_private(urlsplit(href).hostname)
        and not _is_private(catalog_host)
    ):
        raise _refused(spec, href, "it is a private address")
    if netloc not in allowed:
        raise _refused(spec, href, f"host {netloc!r} is not among {', '.join(allowed) or 'none'}")


def _is_private(host: str | None) -> bool:
    try:
        return not ipaddress.ip_address(host or "").is_global
    except ValueError:
        return not host or host.endswith(_PRIVATE_SUFFIXES)


def _check_file(spec, href):
    if href.startswith("file:"):
        parts = urlsplit(href)
        if parts.netloc not in ("", "localhost"):
            raise _refused(spec, href, "a file href may not name a host")
        href = unquote(parts.path)
    path = Path(href)
    if not spec.root or not path.is_absolute() or ".." in path.parts or "\0" in href:
        raise _refused(
            spec,
            href,
            f"a file must be an absolute path below {spec.root or 'a root, and there is none'}",
        )
    resolved = path.resolve()
    if not resolved.is_relative_to(Path(spec.root).resolve()):
        raise _refused(spec, href, f"it leads out of {spec.root}")
    return str(resolved)


def _refused(spec, href, why):
    return AccessError(
        f"catalogue {spec.name} does not allow {without_secrets(href)!r}: {why}; "
        "the catalogue's TOML file says what is allowed"
    )

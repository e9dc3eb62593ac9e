"""One HTTP connection that follows only safe redirects, and says of each failure whether it may pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import HTTPError, NameResolutionError

from vlp.curation.download.catalogue import public
from vlp.system.errors import UserError

MAX_REDIRECTS = 10
LONGEST_RETRY_AFTER = 600.0  # seconds, whatever a server asks for
PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses after which the same request may succeed


@dataclass(frozen=True, kw_only=True)
class Patience:
    """retries: after failures in a row.  first_delay, longest_delay: seconds between them, doubled each time.
    timeout: seconds without any data."""

    retries: int = 8
    first_delay: float = 1.0
    longest_delay: float = 60.0
    timeout: float = 60.0


NAME_RETRIES = 2  # where a host's name is not known: most often there is no network at all


class TryAgain(OSError):
    """A failure that may pass.  wait: seconds that the server asked for.  retries: at most, for what seldom passes."""

    def __init__(self, sentence: str, wait: float | None = None, retries: int | None = None) -> None:
        super().__init__(sentence)
        self.wait, self.retries = wait, retries


class _Anonymous(AuthBase):
    """Keeps requests from looking up passwords in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Connection:
    """Proxies and certificates come from the usual environment variables (HTTPS_PROXY, REQUESTS_CA_BUNDLE)."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.session = requests.Session()
        self.session.headers["User-Agent"] = "vlp"
        # the bytes as they are stored: only of those do Range and Content-Length speak
        self.session.headers["Accept-Encoding"] = "identity"

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def open(self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> requests.Response:
        """The answer with its body unread: status 200, 206 or 416; close it."""
        first = url
        for _ in range(MAX_REDIRECTS):
            response = self._ask(url, method, headers or {}, _password(first, url))
            if not response.is_redirect:
                return self._accepted(response, first)
            target = urljoin(url, response.headers["Location"])
            response.close()
            scheme = urlsplit(target).scheme
            if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
                raise UserError(f"{public(first)}: redirected to {public(target)}, which is not followed: not https")
            url = target
        raise UserError(f"{public(first)}: redirected more than {MAX_REDIRECTS} times")

    def _ask(self, url: str, method: str, headers: dict[str, str], auth: AuthBase) -> requests.Response:
        address = urlsplit(url)
        bare = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
        timeout = (min(self.timeout, 30.0), self.timeout)
        try:
            return self.session.request(
                method, bare, headers=headers, auth=auth, timeout=timeout, stream=True, allow_redirects=False
            )
        # the libraries' own words hold the whole address, and with it what may be secret
        except requests.exceptions.SSLError as error:
            raise UserError(f"{public(url)}: the server's certificate is not valid, or not for this name") from error
        except requests.exceptions.Timeout as error:
            raise TryAgain(f"no answer in {self.timeout:g} seconds") from error
        except requests.exceptions.ConnectionError as error:
            if any(isinstance(cause, NameResolutionError) for cause in _causes(error)):
                sentence = f"the name {address.hostname} is not found: is there a network, or a --mirror?"
                raise TryAgain(sentence, retries=NAME_RETRIES) from error
            raise TryAgain(f"{address.hostname} cannot be reached, or broke the connection") from error
        except requests.exceptions.RequestException as error:
            raise UserError(f"{public(url)}: cannot be asked for ({type(error).__name__})") from error

    def _accepted(self, response: requests.Response, url: str) -> requests.Response:
        status = response.status_code
        if status in (200, 206, 416):
            return response
        response.close()
        said = f"HTTP {status} {response.reason or ''}".rstrip()
        if status in PASSING:
            raise TryAgain(said, _retry_after(response.headers.get("Retry-After")))
        raise OSError(f"{public(url)}: the server answered {said}")

    def size(self, url: str) -> int | None:
        """What the server says without sending the file; None where it does not say."""
        try:
            with self.open(url, method="HEAD") as response:
                return (content_length(response) or None) if response.status_code == 200 else None
        except (OSError, ValueError):  # some servers refuse HEAD; the download itself will tell what is wrong
            return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised for, down to the first of them."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _password(first: str, url: str) -> AuthBase:
    """What the address that was asked for first says in front of its host, which nobody else hears."""
    mine, other = urlsplit(first), urlsplit(url)
    if mine.username is None or (mine.scheme, mine.hostname, mine.port) != (other.scheme, other.hostname, other.port):
        return _Anonymous()
    return HTTPBasicAuth(unquote(mine.username), unquote(mine.password or ""))


def content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def body(response: requests.Response) -> Iterator[bytes]:
    """The rest of the answer as it arrives; TryAgain where it stops early."""
    while True:
        try:
            chunk = response.raw.read1(1 << 18, decode_content=False)
        except (HTTPError, OSError) as error:
            raise TryAgain("the connection broke, or nothing came any more") from error
        if not chunk:
            return
        yield chunk


def _retry_after(text: str | None) -> float | None:
    """Seconds, or a date; None where it is neither."""
    if not text:
        return None
    try:
        seconds = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)

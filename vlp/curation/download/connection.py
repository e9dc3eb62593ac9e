"""One HTTP connection that follows only safe redirects, and tells failures that a retry may cure from those that it does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError, NameResolutionError

from vlp.curation.download.catalogue import redact_url
from vlp.system.errors import UserError

MAX_REDIRECTS = 10
MAX_RETRY_AFTER = 600.0  # seconds, whatever a server asks for
NAME_RETRIES = 2  # where a host's name is not resolved: most often there is no network at all
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}  # after these the same request may succeed


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """retries: after failures in a row.  first_delay, max_delay: seconds between them, doubled each time.
    timeout: seconds without any data."""

    retries: int = 8
    first_delay: float = 1.0
    max_delay: float = 60.0
    timeout: float = 60.0


class TransientError(OSError):
    """A failure after which a retry may succeed.  retry_after: seconds that the server asked for.  max_retries: for failures
    that are seldom cured."""

    def __init__(self, message: str, retry_after: float | None = None, max_retries: int | None = None) -> None:
        super().__init__(message)
        self.retry_after, self.max_retries = retry_after, max_retries


class Connection(requests.Session):
    """Proxies and certificates come from the usual environment variables (HTTPS_PROXY, REQUESTS_CA_BUNDLE)."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self.timeout = timeout
        self.headers["User-Agent"] = "vlp"
        # the bytes as they are stored: Range and Content-Length count those
        self.headers["Accept-Encoding"] = "identity"

    def open(self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> requests.Response:
        """The response with its body unread, of status 200, 206 or 416; the caller closes it.

        Raises TransientError, OSError for another status, UserError for an unsafe redirect or certificate.
        """
        first = url
        for _ in range(MAX_REDIRECTS):
            response = self._send_request(url, method, headers or {}, _credentials(first, url))
            if not response.is_redirect:
                return _check_status(response, first)
            target = urljoin(url, response.headers["Location"])
            response.close()
            scheme = urlsplit(target).scheme
            if scheme not in ("http", "https") or (scheme == "http" and urlsplit(url).scheme == "https"):
                raise UserError(
                    f"{redact_url(first)}: redirected to {redact_url(target)}, which is not followed: not https"
                )
            url = target
        raise UserError(f"{redact_url(first)}: redirected more than {MAX_REDIRECTS} times")

    def _send_request(
        self, url: str, method: str, headers: dict[str, str], credentials: HTTPBasicAuth | None
    ) -> requests.Response:
        address = urlsplit(url)
        url_without_credentials = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
        try:
            return self.request(
                method,
                url_without_credentials,
                headers=headers,
                auth=credentials or (lambda request: request),  # with None, requests would look into ~/.netrc
                timeout=(min(self.timeout, 30.0), self.timeout),
                stream=True,
                allow_redirects=False,
            )
        # the libraries' messages contain the full address, which may contain secrets
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"{redact_url(url)}: the server's certificate is not valid, or is for another host name"
            ) from error
        except requests.exceptions.Timeout as error:
            raise TransientError(f"no answer in {self.timeout:g} seconds") from error
        except requests.exceptions.ConnectionError as error:
            if any(isinstance(cause, NameResolutionError) for cause in _exception_chain(error)):
                message = f"the host name {address.hostname} cannot be resolved; check the network, or give a --mirror"
                raise TransientError(message, max_retries=NAME_RETRIES) from error
            raise TransientError(f"{address.hostname} cannot be reached, or broke the connection") from error
        except requests.exceptions.RequestException as error:
            raise UserError(f"{redact_url(url)}: the request failed ({type(error).__name__})") from error

    def remote_size(self, url: str) -> int | None:
        """The file's size in bytes from a HEAD request; None where the server does not report it."""
        try:
            with self.open(url, method="HEAD") as response:
                return (content_length(response) or None) if response.status_code == 200 else None
        except (OSError, ValueError):  # some servers refuse HEAD; the download itself will report what is wrong
            return None


def _check_status(response: requests.Response, url: str) -> requests.Response:
    status = response.status_code
    if status in (200, 206, 416):
        return response
    response.close()
    answer = f"HTTP {status} {response.reason or ''}".rstrip()
    if status in TRANSIENT_STATUSES:
        raise TransientError(answer, _parse_retry_after(response.headers.get("Retry-After")))
    raise OSError(f"{redact_url(url)}: the server answered {answer}")


def _exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _credentials(first: str, url: str) -> HTTPBasicAuth | None:
    """User name and password of the address that was requested first, for its own host only."""
    own, other = urlsplit(first), urlsplit(url)
    if own.username is None or (own.scheme, own.hostname, own.port) != (other.scheme, other.hostname, other.port):
        return None
    return HTTPBasicAuth(unquote(own.username), unquote(own.password or ""))


def content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def iterate_body(response: requests.Response) -> Iterator[bytes]:
    """The remaining body as it arrives.  Raises TransientError where it stops early."""
    while True:
        try:
            chunk = response.raw.read1(1 << 18, decode_content=False)
        except (HTTPError, OSError) as error:
            raise TransientError("the connection broke, or no more data came") from error
        if not chunk:
            return
        yield chunk


def _parse_retry_after(text: str | None) -> float | None:
    """Seconds, from a number or a date; None where it is neither."""
    if not text:
        return None
    try:
        seconds = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)

"""What each exception of aiohttp means, as one word. Pure; imports aiohttp, so only its users may import this module.

The exceptions themselves hold URLs, headers and tokens: only the word may go further.
"""

import re
import ssl
from typing import Final

import aiohttp
from aiohttp import http_exceptions

# The first class that fits counts. A test fails when aiohttp has an exception that only `ClientError` covers.
HTTP_ERRORS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((aiohttp.ClientConnectorDNSError,), "dns"),
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), "proxy"),
    ((aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch), "tls_certificate"),
    ((aiohttp.ClientSSLError,), "tls"),
    ((TimeoutError,), "timeout"),
    ((aiohttp.ClientConnectorError,), "connection_refused"),
    ((aiohttp.ClientOSError, aiohttp.ClientConnectionResetError), "connection_reset"),
    ((aiohttp.ClientConnectionError,), "connection_lost"),
    ((aiohttp.ClientPayloadError, http_exceptions.PayloadEncodingError), "body_cut"),
    ((aiohttp.ClientResponseError, http_exceptions.HttpProcessingError), "bad_http"),
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, aiohttp.RedirectClientError), "bad_url"),
    ((aiohttp.UploadAbortedError, aiohttp.WSMessageTypeError), "client_error"),
    ((aiohttp.ClientError,), "client_error"),
    ((ssl.SSLError,), "tls"),
    ((OSError,), "connection_reset"),
)


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")  # OpenSSL's


_UNASKED_CODING: Final = re.compile(rb"\r\ncontent-encoding:[ \t]*(br|zstd)[ \t]*\r\n", re.IGNORECASE)


class NoHttpError(http_exceptions.HttpProcessingError):
    """What came cannot be read as HTTP/1.1. `protocol` is what it is, as far as its first bytes show that."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__()
        self.protocol = _protocol_of(beginning)


def _protocol_of(beginning: bytes) -> str | None:
    if beginning[:1] in (b"\x14", b"\x15", b"\x16") and beginning[1:2] == b"\x03":
        return "TLS"
    is_whole_frame = len(beginning) >= 9 and beginning[0] == 0 and beginning[5:9] == bytes(4)
    if is_whole_frame and beginning[3] in (4, 7):  # SETTINGS, GOAWAY: what such a server begins with
        return "HTTP/2"
    if beginning.startswith(b"HTTP/1.") and (coding := _UNASKED_CODING.search(beginning)) is not None:
        return f"HTTP compressed by {coding[1].decode().lower()}"
    return "SSH" if beginning.startswith(b"SSH-") else None


def protocol_spoken(error: BaseException) -> str | None:
    """Return what a server speaks in place of HTTP/1.1, or "no TLS" where TLS was asked for; None where an exception
    does not show it."""
    if isinstance(error, NoHttpError):
        return error.protocol
    reason = getattr(getattr(error, "os_error", error), "reason", None)
    return "no TLS" if reason in _NO_TLS else None


def http_error(error: BaseException) -> str | None:
    """Return the reason word of an exception; None where it is none of an HTTP client."""
    return next((word for known, word in HTTP_ERRORS if isinstance(error, known)), None)

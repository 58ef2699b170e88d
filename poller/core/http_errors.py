"""What each exception of aiohttp means, as one word. Pure; imports aiohttp, so only its users may import this module.

The exceptions themselves hold URLs, headers and tokens: only the word may go further.
"""

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


def http_error(error: BaseException) -> str | None:
    """Return the reason word of an exception; None where it is none of an HTTP client."""
    return next((word for known, word in HTTP_ERRORS if isinstance(error, known)), None)

"""What each exception of aiohttp means, as one word. Pure; imports aiohttp, so only its users may import this module.

The exceptions themselves hold URLs, headers and tokens: only the word may go further.
"""

import ssl
from typing import Final

import aiohttp
from aiohttp import http_exceptions

# The first class that fits counts. A test fails when aiohttp has an exception that only `ClientError` covers.
HTTP_ERRORS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "dns"),
    (aiohttp.ClientProxyConnectionError, "proxy"),
    (aiohttp.ClientHttpProxyError, "proxy"),
    (aiohttp.ClientConnectorCertificateError, "tls_certificate"),
    (aiohttp.ServerFingerprintMismatch, "tls_certificate"),
    (aiohttp.ClientSSLError, "tls"),
    (TimeoutError, "timeout"),
    (aiohttp.ClientConnectorError, "connection_refused"),
    (aiohttp.ClientOSError, "connection_reset"),
    (aiohttp.ClientConnectionResetError, "connection_reset"),
    (aiohttp.ClientConnectionError, "connection_lost"),
    (aiohttp.ClientPayloadError, "body_cut"),
    (aiohttp.ClientResponseError, "bad_http"),
    (aiohttp.InvalidURL, "bad_url"),
    (aiohttp.NonHttpUrlClientError, "bad_url"),
    (aiohttp.RedirectClientError, "bad_url"),
    (http_exceptions.PayloadEncodingError, "body_cut"),
    (http_exceptions.HttpProcessingError, "bad_http"),
    (aiohttp.UploadAbortedError, "client_error"),
    (aiohttp.WSMessageTypeError, "client_error"),
    (aiohttp.ClientError, "client_error"),
    (ssl.SSLError, "tls"),
    (OSError, "connection_reset"),
)


def http_error(error: BaseException) -> str | None:
    """Return the reason word of an exception; None where it is none of an HTTP client."""
    return next((word for known, word in HTTP_ERRORS if isinstance(error, known)), None)

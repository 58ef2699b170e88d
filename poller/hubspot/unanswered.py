"""Why no answer came where only a person can help: a certificate, another protocol, a proxy's refusal. Pure.

aiohttp's exceptions hold the token: only words of our own go further.
"""

from collections.abc import Mapping

import aiohttp
from yarl import URL

from poller.core.http_errors import http_error, protocol_spoken
from poller.core.model import Refused

OUT_OF_DATE = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_PROTOCOL_REMEDIES: Mapping[str, str] = {
    "no TLS": "https:// needs it: correct scheme and port of base_url, and check the proxy on the way",
    "TLS": "base_url begins with http://: write https://",
    "HTTP/2": "the poller speaks HTTP/1.1: correct base_url, or let the gateway accept HTTP/1.1",
}


def refusal_of(error: Exception, url: URL) -> Refused | None:
    """Return what a person must do about an exception of a request to `url`; None where it may pass by itself."""
    if http_error(error) == "tls_certificate":
        return untrusted(error, url.host)
    if isinstance(error, aiohttp.ClientHttpProxyError) and 400 <= error.status <= 499:
        return _of_the_proxy(error.status, url)
    if (spoken := protocol_spoken(error)) is not None:
        return _of_another_protocol(spoken, url)
    return None


def untrusted(error: Exception, host: str | None) -> Refused:
    """Return that the certificate was refused, so that nothing was sent."""
    why = getattr(getattr(error, "certificate_error", None), "verify_message", None) or "it cannot be verified"
    remedy = "check base_url, or set ca_file to the proxy's CA"
    if getattr(getattr(error, "certificate_error", None), "verify_code", None) in OUT_OF_DATE:
        remedy = "check this machine's clock, and base_url"
    detail = f"the certificate of {host} was refused ({why}): {remedy}"
    return Refused(reason="untrusted_certificate", detail=detail)


def _of_the_proxy(status: int, url: URL) -> Refused:
    what = f"lets no request to {url.host} pass ({status}): allow it there, or correct proxy and base_url"
    if status == 407:
        what = "refuses its user and password (407): write them into proxy, as http://USER:PASSWORD@HOST:PORT"
    return Refused(reason="unknown_answer", detail=f"the proxy {what}")


def _of_another_protocol(spoken: str, url: URL) -> Refused:
    other = "that is no HTTP: correct base_url"
    if spoken.startswith("HTTP compressed"):
        other = "gzip was asked for: correct the proxy or gateway on the way"
    remedy = _PROTOCOL_REMEDIES.get(spoken, other)
    return Refused(reason="unknown_answer", detail=f"port {url.port} of {url.host} speaks {spoken}, and {remedy}")

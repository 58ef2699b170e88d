"""The reason words of HTTP errors are one set: HubSpot's client and the webhook sink know each of them."""

from poller.core.http_errors import HTTP_ERRORS
from poller.hubspot.client import Trouble
from poller.sinks.webhook.sink import MESSAGES

WORDS = {word for _, word in HTTP_ERRORS}


def test_every_word_is_a_reason_of_the_client() -> None:
    assert {Trouble(word).value for word in WORDS} == WORDS


def test_every_message_of_the_webhook_sink_belongs_to_a_word() -> None:
    assert MESSAGES.keys() <= WORDS
    assert WORDS - MESSAGES.keys() == {"body_cut", "bad_http", "bad_url", "client_error"}

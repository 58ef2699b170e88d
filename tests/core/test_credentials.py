"""Mistakes in a secret are named only where they are surely some: the same rules hold for any secret."""

import pytest

from poller.core.credentials import checked_token
from poller.core.errors import ConfigError


@pytest.mark.parametrize(
    "secret",
    [
        "PROD_1:5f3a9c",
        "MY_KEY=abc",
        "token:abc123",
        "token=abc",
        "A_B==x",
        "bearer-abc",
        "abc...",
        "CIrToa_ok==",
        "pat-na1-1",
    ],
)
def test_a_secret_that_only_looks_like_a_mistake_is_taken(secret: str) -> None:
    assert checked_token(secret, "x") == secret


@pytest.mark.parametrize(
    ("secret", "mistake"),
    [
        ("export HUBSPOT_TOKEN=abc", "has a name before the token"),
        ("HUBSPOT_TOKEN=CIrToa", "has a name before the token"),
        ("HUBSPOT_CLIENT_SECRET = abc", "has a name before the token"),
        ("MY_KEY='pat-na1-1'", "has a name before the token"),
        ("token: pat-na1-1", "has a name before the token"),
        ("pat-eu1-1234...", "is a token that was shortened"),
        ("CIrToa…", "is a token that was shortened"),
        ("Bearer abc", "has the word Bearer"),
    ],
)
def test_a_mistake_in_a_secret_is_named_without_the_secret(secret: str, mistake: str) -> None:
    with pytest.raises(ConfigError, match=f"^x {mistake}") as raised:
        checked_token(secret, "x")
    assert secret not in str(raised.value)

"""What landed, by host: every task with a URL is counted once, in bounded memory."""

import pytest

from poller.core.columns import source_file
from poller.engine.host_counts import HOSTS, HostCount, HostCounts


def test_each_task_with_a_url_counts_for_its_host_and_the_worst_come_first() -> None:
    counts = HostCounts()
    for number in range(10):
        counts.add({"url": f"https://a.example/{number}.png"}, landed=True)
        counts.add({"file_url": f"http://B.example:8080/{number}.png"}, landed=number > 2)
    counts.add({"url": "https://c.example/1.png"}, landed=True)
    without: list[object] = [{"name": "no url"}, None, [], {"url": "http://[broken/"}, {"url": 5}]
    for nothing in without:
        counts.add(nothing, landed=False)
    assert counts.worst(3) == [
        ("b.example", HostCount(landed=7, not_landed=3)),
        ("a.example", HostCount(landed=10)),
        ("c.example", HostCount(landed=1)),
    ]
    assert counts.worst(1) == counts.worst(3)[:1]
    assert (counts.counted(), counts.seen) == (21, 26)


def test_a_row_that_was_tried_again_counts_by_its_latest_attempt() -> None:
    counts = HostCounts()
    counts.add({"url": "https://a.example/1.png"}, landed=False)
    counts.add({"url": "https://a.example/2.png"}, landed=False)
    counts.add({"url": "https://a.example/1.png"}, landed=True, is_again=True)
    counts.add({"url": "https://b.example/1.png"}, landed=True, is_again=True)  # tried before the run's memory begins
    assert counts.worst(2) == [
        ("a.example", HostCount(landed=1, not_landed=1)),
        ("b.example", HostCount(landed=1)),
    ]
    assert counts.counted() == counts.seen == 3


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example",
        "HTTPS://User:pw@A.example:444?x=https://b.example/",
        " http://a.example#x",
        "a.example/file.png",
        "//a.example/x",
        "ftp://a.example/x",
        "https:///x",
        "https://[::1]:8/x",
        "https://a.example\\@b.example/x",
        "file.png",
        "https://" + "a" * 200 + "/x",
    ],
)
def test_the_host_is_the_one_that_the_task_table_filters_by(url: str) -> None:
    counts, host = HostCounts(), source_file({"url": url}).host
    counts.add({"url": url}, landed=True)
    assert set(counts.hosts) == ({host} if host else set())


def test_beyond_a_bound_new_hosts_count_together() -> None:
    counts = HostCounts()
    for number in range(HOSTS + 5):
        for landed in (True, False):
            counts.add({"url": f"https://h{number}.example/a"}, landed=landed)
    assert len(counts.hosts) == HOSTS
    assert counts.others == HostCount(landed=5, not_landed=5)
    assert counts.counted() == 2 * (HOSTS + 5)

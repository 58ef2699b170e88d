"""What is read from a state's tables becomes the words of the core."""

from poller.store.rows import TASK, task_of


def test_each_column_of_a_task_becomes_the_field_of_its_name() -> None:
    columns = [name.strip() for name in TASK.split(",")]
    task = task_of("main", columns, lease=7)
    assert {name: getattr(task, name) for name in columns} == {name: name for name in columns}
    assert (task.account, task.lease) == ("main", 7)

"""Binaries have the flags that the README and the pages of docs/ name."""

from tests.test_docs import commands


def test_binaries_have_the_flags_that_pages_name(flags_of):
    named = {name: flags for name, flags in commands().items() if "/" not in name}
    assert "train_resnet50" in named
    # Every program of absl has the first.
    known = {name: {"flagfile"} | flags_of(name) for name in named}
    for program, flags in named.items():
        assert flags <= known[program], f"{program}: {flags - known[program]}"

"""A pytest plugin: which features work with the present Keras and backend.

Tests name what they show, as a user would say it: `@pytest.mark.feature("EMA")`. With
`--features=FILE.json`, what came of the tests of each feature is written there;
`tests/make_features.py` makes a table of such files.

What is written of a feature: what became of its tests, each outcome once: null if one
passed, the reason if one was skipped, or "failed".
"""

import json
import pathlib

import pytest

FAILED = "failed"
_FEATURES = "features"


def pytest_addoption(parser):
    parser.addoption(
        "--features", metavar="FILE", help="write which features work to this file"
    )


def pytest_configure(config):
    # Of processes that work for another one, that one writes.
    if config.getoption("--features") and not hasattr(config, "workerinput"):
        path = pathlib.Path(config.getoption("--features"))
        config.pluginmanager.register(FeatureTable(path), "feature-table")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    del call
    report = (yield).get_result()
    names = [marker.args[0] for marker in item.iter_markers("feature")]
    report.user_properties.append((_FEATURES, names))


class FeatureTable:
    """Collects outcomes by feature, and writes them when the tests are over."""

    def __init__(self, path):
        self._path = path
        # By feature, an entry for each test: None if passed, else why not.
        self._outcomes: dict[str, list[str | None]] = {}

    def pytest_runtest_logreport(self, report):
        if report.passed and report.when != "call":
            return
        if report.skipped:
            outcome = report.longrepr[2].removeprefix("Skipped: ")
        else:
            outcome = FAILED if report.failed else None
        for feature in dict(report.user_properties).get(_FEATURES, ()):
            self._outcomes.setdefault(feature, []).append(outcome)

    def pytest_sessionfinish(self):
        # Imports a framework.
        from tests.flavour import FLAVOUR

        found = {n: list(dict.fromkeys(o)) for n, o in sorted(self._outcomes.items())}
        table = {"flavour": FLAVOUR, "features": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")

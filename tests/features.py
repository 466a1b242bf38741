"""Features by backend: a pytest plugin that notes which work, and their table.

Tests name what they show, as a user would say it: `@pytest.mark.feature("EMA")`. With
`--features=FILE.json`, what came of the tests of each feature is written there: each
outcome once, null if a test passed, the reason if one was skipped, or "failed".

    python -m tests.features build/features/*.json --output docs/features.md

makes the table of such files, one or several for each Keras and backend. Features whose
names begin with "others: " have a section of their own.
"""

import argparse
import json
import pathlib

import pytest

COLUMNS = {
    "keras-tensorflow": "Keras 3, TensorFlow",
    "keras-jax": "Keras 3, JAX",
    "keras-torch": "Keras 3, PyTorch",
    "tf_keras": "tf_keras",
}
FAILED = "failed"
_FEATURES = "features"
_OTHERS = "others: "
_OTHERS_HEAD = [
    "## What others' programs do",
    "",
    "Kinds of programs around a sparse model, each of which once went wrong in",
    "silence, or failed where it should work.",
    "",
]
_HEAD = """# Features by backend

Made from the tests' results by `tests/features.py`: a "yes" is a test that passed.
A dash: no test asks, since it is of the other Keras.

"""


def pytest_addoption(parser):
    parser.addoption(
        "--features", metavar="FILE", help="write which features work to this file"
    )


def pytest_configure(config):
    # Of processes that work for another one, that one writes.
    if config.getoption("--features") and not hasattr(config, "workerinput"):
        path = pathlib.Path(config.getoption("--features"))
        config.pluginmanager.register(_Notes(path), "features-notes")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    del call
    report = (yield).get_result()
    names = [marker.args[0] for marker in item.iter_markers("feature")]
    report.user_properties.append((_FEATURES, names))


class _Notes:
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
        notes = {"flavour": FLAVOUR, "features": found}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(notes, indent=1) + "\n", "utf-8")


def table(notes: list[dict]) -> str:
    """The page, from the contents of files."""
    found: dict[str, dict[str, list[str | None]]] = {}
    for each in notes:
        for name, outcomes in each["features"].items():
            row = found.setdefault(name, {})
            row.setdefault(each["flavour"], []).extend(outcomes)
    columns = [c for c in COLUMNS if any(c in row for row in found.values())]
    reasons: dict[str, int] = {}
    lines = []
    for is_of_others in (False, True):
        head = ["feature", *(COLUMNS[c] for c in columns)]
        rows = [head, ["---"] * len(head)]
        for name in sorted(found, key=str.lower):
            if name.startswith(_OTHERS) == is_of_others:
                cells = [_cell(found[name].get(c), reasons) for c in columns]
                rows.append([name.removeprefix(_OTHERS), *cells])
        if len(rows) > 2:
            lines += _OTHERS_HEAD if is_of_others else []
            lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    footnotes = [f"{number}. {why}" for why, number in reasons.items()]
    return _HEAD + "\n".join([*lines, *footnotes]) + "\n"


def _cell(outcomes, reasons):
    """Whether all, some or none of a feature's tests passed; why not, in a footnote."""
    if outcomes is None:
        return "-"
    why = list(dict.fromkeys(o for o in outcomes if o is not None))
    if not why:
        return "yes"
    number = reasons.setdefault("; ".join(why), len(reasons) + 1)
    some = None in outcomes and FAILED not in why
    return f"{'partly' if some else 'no'} ({number})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    read = [json.loads(path.read_text("utf-8")) for path in arguments.files]
    arguments.output.write_text(table(read), "utf-8")


if __name__ == "__main__":
    main()

"""Makes the table of features by backend from what the tests have found.

    python -m tests.make_features build/features/*.json --output docs/features.md

The files are those that `pytest --features=FILE.json` writes, one or several for each
Keras and backend.
"""

import argparse
import json
import pathlib

from tests.features import FAILED

COLUMNS = {
    "keras-tensorflow": "Keras 3, TensorFlow",
    "keras-jax": "Keras 3, JAX",
    "keras-torch": "Keras 3, PyTorch",
    "tf_keras": "tf_keras",
}
_HEAD = """# Features by backend

Made from the tests' results by `tests/make_features.py`: a "yes" is a test that passed.
A dash: no test asks, since it is of the other Keras.

"""


def merged(tables: list[dict]) -> dict[str, dict[str, list[str | None]]]:
    """Outcomes by flavour and feature, from what `tests.features` has written."""
    found: dict[str, dict[str, list[str | None]]] = {}
    for each in tables:
        features = found.setdefault(each["flavour"], {})
        for name, outcomes in each["features"].items():
            features.setdefault(name, []).extend(outcomes)
    return found


def summary(outcomes: list[str | None]) -> str:
    """What the tests of a feature say of it.

    "yes"; "no: " and why, if all of its tests were skipped; "partly: " and why, if some
    were; "no: failed".
    """
    reasons = list(dict.fromkeys(o for o in outcomes if o is not None))
    if FAILED in reasons:
        return f"no: {FAILED}"
    if not reasons:
        return "yes"
    return f"{'partly' if None in outcomes else 'no'}: {'; '.join(reasons)}"


def table(found: dict[str, dict[str, list[str | None]]]) -> str:
    """The page, from what `merged` gives."""
    columns = [flavour for flavour in COLUMNS if flavour in found]
    notes: dict[str, int] = {}
    head = ["feature", *(COLUMNS[c] for c in columns)]
    rows = [head, ["---"] * len(head)]
    for feature in sorted({f for c in columns for f in found[c]}, key=str.lower):
        cells = [_cell(found[c].get(feature), notes) for c in columns]
        rows.append([feature, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    footnotes = [f"{number}. {why}" for why, number in notes.items()]
    return _HEAD + "\n".join([*lines, "", *footnotes]) + "\n"


def _cell(outcomes, notes):
    if outcomes is None:
        return "-"
    answer, _, why = summary(outcomes).partition(": ")
    if not why:
        return answer
    number = notes.setdefault(why, len(notes) + 1)
    return f"{answer} ({number})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    read = [json.loads(path.read_text("utf-8")) for path in arguments.files]
    arguments.output.write_text(table(merged(read)), "utf-8")


if __name__ == "__main__":
    main()

"""Writes what `tests/shared/test_earlier_files.py` loads, by the code as it is.

    SOS_KERAS=tf_keras python -m tests.make_earlier_files 0.2.0
    SOS_KERAS=keras python -m tests.make_earlier_files 0.2.0

Run once per version, before how models are saved changes: what is there is kept, and
stays as that version has written it.
"""

import argparse

from tests import earlier_files


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="the folder below tests/data")
    version = parser.parse_args().version
    for name in earlier_files.TECHNIQUES:
        try:
            print(earlier_files.write(name, version))
        except FileExistsError as error:
            print(f"kept: {error.filename}")


if __name__ == "__main__":
    main()

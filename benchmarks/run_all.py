"""Runs the benchmarks of `suite.py`, and writes their figures as one table.

  python benchmarks/run_all.py --output=build/bench
  python benchmarks/run_all.py --only='ResNet-50' --list

Each runs in processes of its own, one after the other; let nothing else run. The table,
with the machine and the versions, is written after each of them, as Markdown and as
JSON, under the time at which the first began. Earlier figures stand beside the new
ones: those of `--earlier`, or else of the newest file that the folder has.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile

import figures
import suite
from absl import app, flags

_OUTPUT = flags.DEFINE_string("output", "build/bench", "Folder of the tables.")
_ONLY = flags.DEFINE_string("only", "", "A pattern that names of benchmarks contain.")
_EARLIER = flags.DEFINE_string("earlier", None, "JSON of an earlier run, to compare.")
_LIST = flags.DEFINE_bool("list", False, "Only say what would be run.")
_MORE = flags.DEFINE_multi_string("flag", [], "A further flag for all that are run.")

HERE = pathlib.Path(__file__).parent
PACKAGES = ("keras", "tensorflow", "tf-keras", "jax", "torch", "onnxruntime", "numpy")


def machine() -> dict[str, str]:
    """What the figures depend on, by name."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory() / 2**30:.0f} GiB",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "state-of-sparsity": _commit(),
    }
    if shutil.which("nvidia-smi"):
        found["accelerators"] = _output("nvidia-smi", "-L")
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor():
    cpus = pathlib.Path("/proc/cpuinfo")
    if cpus.exists():
        names = re.findall(r"model name\s*: (.*)", cpus.read_text(encoding="utf-8"))
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _commit():
    version = importlib.metadata.version("state-of-sparsity")
    changed = " with changes" if _output("git", "status", "--porcelain") else ""
    return (
        f"{version}, commit {_output('git', 'rev-parse', '--short', 'HEAD')}{changed}"
    )


def _output(*command):
    """What a command prints, or "unknown" where it fails."""
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def measured(entry: suite.Entry) -> list[dict] | None:
    """The figures of a benchmark; None where it fails, which it has then said."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if entry.backend:
        environment["KERAS_BACKEND"] = entry.backend
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "figures.json")
        script = HERE / f"{entry.script}.py"
        command = [sys.executable, script, *entry.flags, *_MORE.value]
        done = subprocess.run([*command, f"--json={path}"], env=environment)
        if done.returncode:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    return [{"benchmark": entry.name, **figure} for figure in found]


def _place(figure):
    """What figures of two runs have in common."""
    return figure["benchmark"], figure["case"], figure["quantity"]


def table(result: dict, earlier: dict | None) -> str:
    """All figures as a table in Markdown, beside the earlier ones."""
    lines = ["# Benchmarks", "", f"Begun {result['begun']}.", ""]
    lines += [f"- {name}: {text}" for name, text in result["machine"].items()]
    before = {}
    if earlier:
        lines += ["", f"Earlier: {earlier['begun']}."]
        lines += [
            f"- {name} was: {earlier['machine'].get(name)}"
            for name, text in result["machine"].items()
            if earlier["machine"].get(name) != text
        ]
        before = {_place(figure): figure["value"] for figure in earlier["figures"]}
    lines += ["", "| benchmark | case | | | earlier | new over earlier |"]
    lines += ["|---|---|---|---|---|---|"]
    for figure in result["figures"]:
        value, old = figure["value"], before.get(_place(figure))
        compared = ["", ""]
        if old:
            compared = [figures.as_text(old), figures.as_text(value / old)]
        columns = [*_place(figure), figures.as_text(value), *compared]
        lines.append(f"| {' | '.join(columns)} |")
    lines += [f"\nFailed: {name}." for name in result["failed"]]
    return "\n".join(lines) + "\n"


def _write(text, path):
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _earlier_figures(folder):
    """Of the file that `--earlier` names, or else of the newest; None without one."""
    files = sorted(folder.glob("*.json"))
    path = pathlib.Path(_EARLIER.value) if _EARLIER.value else (files or [None])[-1]
    if path is None:
        return None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return {key: earlier[key] for key in ("begun", "machine", "figures")}
    except (OSError, ValueError, KeyError) as error:
        raise app.UsageError(
            f"The earlier figures cannot be read: name another file by --earlier. "
            f"Received: {path} ({error})"
        ) from error


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    chosen = [entry for entry in suite.SUITE if re.search(_ONLY.value, entry.name)]
    if not chosen:
        raise app.UsageError(
            f"--only must be part of a name, see --list. Received: {_ONLY.value!r}"
        )
    if _LIST.value:
        print("\n".join(entry.name for entry in chosen))
        return
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _earlier_figures(folder)
    begun = datetime.datetime.now().isoformat(" ", "seconds")
    result = {"begun": begun, "machine": machine(), "figures": [], "failed": []}
    name = re.sub(r"\D", "", begun)
    for number, entry in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {entry.name}", flush=True)
        found = measured(entry)
        result["failed"] += [entry.name] if found is None else []
        result["figures"] += found or []
        _write(json.dumps(result, indent=2) + "\n", folder / f"{name}.json")
        _write(table(result, earlier), folder / f"{name}.md")
    print(table(result, earlier))
    if result["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)

"""That README.md and the pages of docs/ are true: code runs, links and flags hold.

The pieces of Python of a page run in order, in one process, in an empty folder. A page
says in a comment at its top with which Keras:

    <!-- flavour: keras -->        Keras 3
    <!-- flavour: tf_keras -->

and a comment in front of a piece says if it is for some of the backends only:

    <!-- backends: tensorflow, torch -->

A page runs on one backend, PyTorch where that can be, since it need not compile. What
is for others runs on those, with the pieces that it takes names from.
"""

import ast
import dataclasses
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

import state_of_sparsity as sos

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Of a fenced piece: what it is in, its lines, and the comment in front of it.
_FENCED = re.compile(
    r"(?:<!-- backends: (?P<backends>.*?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_LONGEST_LINE = 88
# What holds after a page has run.
_CLAIMS = {
    "README.md": """
found = {layer.name: layer.sparsity for layer in sos.sparsity_report(stripped).layers}
assert found == {"hidden/kernel": 0.9, "logits/kernel": 0.5}, found
""",
    "runtime.md": """
import threading, urllib.request

if "server" in globals():
    threading.Thread(target=server.handle_request).start()
    body = io.BytesIO()
    np.save(body, x)
    url = f"http://localhost:{server.server_port}"
    with urllib.request.urlopen(url, body.getvalue(), timeout=60) as answer:
        served = np.load(io.BytesIO(answer.read()))
    np.testing.assert_array_equal(served, outputs)
""",
}


@dataclasses.dataclass(frozen=True)
class Piece:
    """A fenced piece of a page.

    Attributes:
      language: "python", or "" for what is typed or printed.
      text: its lines.
      line: number of the first of them in the page.
      backends: those that it is for; none for all.
    """

    language: str
    text: str
    line: int
    backends: tuple[str, ...]


def pieces(page):
    text = page.read_text(encoding="utf-8")
    for found in _FENCED.finditer(text):
        backends = found["backends"]
        yield Piece(
            found["language"],
            found["text"],
            text.count("\n", 0, found.start("text")) + 1,
            tuple(backends.split(", ")) if backends else (),
        )


def flavour(page):
    found = re.match(r"<!-- flavour: (keras|tf_keras) -->", page.read_text("utf-8"))
    return found and found[1]


def with_python(page):
    return any(piece.language == "python" for piece in pieces(page))


def backends_of(page):
    """Backends that each piece of a page is for one of; the first runs all it can."""
    if flavour(page) == "tf_keras":
        return ["tensorflow"]
    named = [piece.backends for piece in pieces(page) if piece.backends]
    # By the time that they take.
    for backend in ("torch", "tensorflow", "jax"):
        if all(backend in backends for backends in named):
            return [backend]
    chosen = ["torch"]
    for backends in named:
        if not set(chosen) & set(backends):
            chosen.append(backends[0])
    return chosen


def to_run(page, backend):
    """The pieces of Python of a page that run on a backend."""
    first, *_ = backends_of(page)
    found: list[Piece] = []
    needed: set[str] = set()
    for piece in reversed(list(pieces(page))):
        if piece.language != "python" or backend not in (piece.backends or (backend,)):
            continue
        bound, used = names(piece.text)
        is_only_here = piece.backends and first not in piece.backends
        if backend == first or is_only_here or bound & needed:
            found.insert(0, piece)
            needed = needed - bound | used
    return found


def names(text):
    """Those that a piece of Python binds, and those that it uses."""
    bound, used = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
    return bound, used


def script(page, backend):
    """The Python of a page, each line where it is in the page."""
    lines: list[str] = []
    for piece in to_run(page, backend):
        lines += [""] * (piece.line - 1 - len(lines))
        lines += piece.text.splitlines()
    return "\n".join(lines) + "\n" + _CLAIMS.get(page.name, "")


def programs():
    """Pages and backends; all but the README's take more than seconds."""
    for page in filter(with_python, PAGES):
        marks = () if page.name == "README.md" else pytest.mark.slow
        for backend in backends_of(page):
            yield pytest.param(page, backend, marks=marks, id=f"{page.name}-{backend}")


@pytest.mark.parametrize(("page", "backend"), programs())
def test_python_of_the_page_runs(page, backend, tmp_path):
    assert flavour(page), f"{page.name} does not say with which Keras its code runs"
    pytest.importorskip(backend)
    file = tmp_path / "snippets.py"
    file.write_text(script(page, backend), encoding="utf-8")
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "MPLBACKEND": "Agg",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # As in tests/flavour.py, of tiny models.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, file.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_lines_are_short():
    for page in PAGES:
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            # A row of a table is one line.
            if not line.startswith("|"):
                assert len(line) <= _LONGEST_LINE, f"{page.name}:{number}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in headings(file), f"{page.name} links to {target}"


def headings(page):
    """What links call the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in titles
    }


def test_code_files_that_pages_name_are_there():
    named = re.compile(
        r"`((?:benchmarks|bin|docs|examples|models|state_of_sparsity|tests)/[\w./]*)`"
    )
    for page in PAGES:
        for path in named.findall(page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_api_reference_has_every_public_name():
    listed = set(re.findall(r"^::: (\S+)$", api_reference(), flags=re.MULTILINE))
    for name in sos.__all__:
        value = getattr(sos, name)
        if hasattr(value, "__qualname__"):
            assert f"{value.__module__}.{value.__qualname__}" in listed
        else:
            assert any(path.endswith(f".{name}") for path in listed), name


@pytest.mark.parametrize("name", ["layers", "layers.tf_keras"])
def test_api_reference_has_every_layer(name):
    if name == "layers.tf_keras":
        pytest.importorskip("tensorflow_model_optimization")
        import keras

        if keras.backend.backend() != "tensorflow":
            pytest.skip("tf_keras layers need the TensorFlow backend of Keras")
    module = f"state_of_sparsity.{name}"
    _, _, text = api_reference().partition(f"::: {module}\n")
    section = text.partition("\n## ")[0]
    for layer in importlib.import_module(module).__all__:
        assert re.search(rf"\b{layer}\b", section), f"{module}.{layer}"


def api_reference():
    return (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_build_without_a_warning_and_fetch_nothing(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = r'<(?:script|img)[^>]* src="https?:|<link[^>]*stylesheet[^>]*"https?:'
        assert not re.search(fetched, text), page.name


def commands():
    """Commands of the pages: their program, and the flags that they name."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for piece in pieces(page):
            if piece.language in ("", "sh"):
                for line in piece.text.replace("\\\n", " ").splitlines():
                    _note_command(line.partition(" #")[0], found)
        prose = _FENCED.sub("", page.read_text("utf-8"))
        for code in re.findall(r"`([^`]+)`", prose):
            _note_command(" ".join(code.split()), found)
    return found


def _note_command(line, found):
    match = re.match(
        r"(?:\w+=\S+ )*(?:python (?P<file>benchmarks/\w+\.py)|(?P<binary>\w+))(?= |$)",
        line,
    )
    if match is None:
        return
    program = match["file"] or match["binary"]
    if match["file"] or _is_binary(ROOT / "bin" / f"{program}.py"):
        found.setdefault(program, set()).update(re.findall(r" --(\w+)", line))


def _is_binary(path):
    return path.is_file() and "__main__" in path.read_text(encoding="utf-8")


def test_benchmarks_have_the_flags_that_pages_name():
    for program, flags in commands().items():
        if program.endswith(".py"):
            known = defined_flags(ROOT / program)
            assert flags <= known, f"{program}: {flags - known}"


def defined_flags(path):
    """Of a script and of the files beside it that it imports."""
    text = path.read_text("utf-8")
    known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text))
    for name in re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE):
        beside = path.with_name(f"{name}.py")
        if beside.exists():
            known |= defined_flags(beside)
    return known


# A notebook trains several models.
@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name
)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("sklearn")
    pytest.importorskip("jax")
    # They run on the other backends, too: on PyTorch, step by step, for minutes.
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    for cell in content.cells:
        assert not cell.get("outputs"), "notebooks are committed without outputs"
    client = nbclient.NotebookClient(
        content,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()

"""The package as a whole: exports, packing, and that the README is true."""

import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import state_of_sparsity as sos

ROOT = pathlib.Path(__file__).parent.parent


def test_every_public_name_is_there():
    for name in sos.__all__:
        assert getattr(sos, name) is not None
    assert set(sos.__all__) <= set(dir(sos))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        sos.prune  # noqa: B018


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) >= 2
    namespace = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    sparsities = {
        layer.name: layer.sparsity
        for layer in sos.sparsity_report(namespace["sparse"]).layers
    }
    assert sparsities == {"hidden/kernel": 0.9, "logits/kernel": 0.5}
    assert namespace["logits"].shape == (1, 10)


def test_library_imports_neither_models_nor_binaries():
    for file in (ROOT / "state_of_sparsity").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "state_of_sparsity.models" not in text, file
        assert "state_of_sparsity.bin" not in text, file
    for file in (ROOT / "models").rglob("*.py"):
        assert "state_of_sparsity.bin" not in file.read_text(encoding="utf-8"), file


def test_keras_comes_from_the_backend():
    for folder in ("state_of_sparsity", "models", "bin"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "backend.py":
                text = file.read_text(encoding="utf-8")
                assert not re.search(r"^\s*(import|from) (tf_)?keras", text, re.M), file
                assert "tf.keras." not in text, file


@pytest.mark.slow
def test_wheel_has_one_top_level_package_with_recipes(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert {f for f in folders if not f.endswith(".dist-info")} == {"state_of_sparsity"}
    for expected in (
        "state_of_sparsity/techniques/magnitude.py",
        "state_of_sparsity/models/resnet.py",
        "state_of_sparsity/bin/train_resnet50.py",
    ):
        assert expected in names
    assert any(name.startswith("state_of_sparsity/bin/recipes/") for name in names)


@pytest.mark.slow
def test_package_imports_from_another_folder(tmp_path):
    script = (
        "import sys, state_of_sparsity as sos; "
        "assert 'tensorflow' not in sys.modules; "
        "import tensorflow as tf; assert 'tf_keras' in tf.keras.Model.__module__; "
        "print(sos.MagnitudePruning(0.9, 0, 10, 5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"MagnitudePruning(sparsity=0.9" in done.stdout

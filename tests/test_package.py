"""The package as a whole: exports, packing, and that the README is true."""

import os
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


def texts(folder):
    """The text of each file of Python in a folder."""
    return {file: file.read_text("utf-8") for file in (ROOT / folder).rglob("*.py")}


def test_library_imports_neither_models_nor_binaries():
    for file, text in texts("state_of_sparsity").items():
        assert "state_of_sparsity.models" not in text, file
        assert "state_of_sparsity.bin" not in text, file
    for file, text in texts("models").items():
        assert "state_of_sparsity.bin" not in text, file


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        ("training", ("analysis", "images", "translation")),
        ("analysis", ("images", "translation")),
        ("images", ("translation",)),
        ("translation", ("images",)),
    ],
)
def test_tasks_and_analysis_import_training_and_not_each_other(folder, others):
    files = texts(f"models/{folder}")
    assert files
    for file, text in files.items():
        for other in others:
            assert f"state_of_sparsity.models.{other}" not in text, file
            assert f"state_of_sparsity.models import {other}" not in text, file


def test_tf_keras_comes_from_the_backend():
    # The ResNet is built by the Keras that it is given, without the backend.
    others = ("backend.py", "resnet.py")
    for folder in ("state_of_sparsity", "models", "bin"):
        for file, text in texts(folder).items():
            if file.name not in others:
                assert not re.search(r"^\s*(import|from) tf_keras", text, re.M), file
                assert "tf.keras." not in text, file


def test_no_framework_is_imported_outside_of_the_engines():
    frameworks = r"^\s*(import|from) (tf_keras|tensorflow|jax|torch)\b"
    for file, text in texts("state_of_sparsity").items():
        if not file.is_relative_to(ROOT / "state_of_sparsity" / "engines"):
            assert not re.search(frameworks, text, re.M), file


def test_engines_import_nothing_that_is_built_on_them():
    upwards = (
        r"state_of_sparsity(\.| import )(conversion|report|export|flops|layers|thr)"
    )
    for file, text in texts("state_of_sparsity/engines").items():
        for line in text.splitlines():
            if line.lstrip().startswith(("import", "from")):
                assert not re.search(upwards, line), file


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
        "state_of_sparsity/models/analysis/finished_runs.py",
        "state_of_sparsity/models/images/resnet.py",
        "state_of_sparsity/models/training/loop/training.py",
        "state_of_sparsity/models/translation/transformer.py",
        "state_of_sparsity/bin/train_resnet50.py",
    ):
        assert expected in names
    assert any(name.startswith("state_of_sparsity/bin/recipes/") for name in names)
    assert "state_of_sparsity/bin/recipes/published_scratch_and_lottery.csv" in names


@pytest.mark.slow
def test_package_imports_from_another_folder(tmp_path):
    script = (
        "import os, sys; before = dict(os.environ); import state_of_sparsity as sos; "
        "assert not {'keras', 'tf_keras', 'tensorflow'} & sys.modules.keys(); "
        "assert before == os.environ; "
        "technique = sos.MagnitudePruning(0.9, 0, 10, 5); "
        "assert 'tf_keras' not in sys.modules; print(technique)"
    )
    # As before the engine of tf_keras was imported here.
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert b"MagnitudePruning(sparsity=0.9" in done.stdout

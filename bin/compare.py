"""Compares runs with each other, and with the published ones.

  compare runs/first runs/second --layers_of=first,second --html
  compare bin/recipes/published_results.csv --model=transformer

Arguments are folders of runs, folders that hold such folders at any depth, and
published tables. The comparison is of one model on one dataset: pictures of quality
over sparsity and over FLOPs (PNG and SVG), and a table (CSV and Markdown), which is
printed as well. Runs that are not finished are skipped, and listed.
"""

import pathlib
import sys

from absl import flags

from state_of_sparsity.bin import app
from state_of_sparsity.models.analysis import (
    axes,
    finished_runs,
    page,
    pictures,
    tables,
)
from state_of_sparsity.models.analysis.points import summarize
from state_of_sparsity.models.usage import UsageError, usage_errors

flags.DEFINE_string(
    "output_dir", "runs/comparison", "Where to write pictures and table."
)
flags.DEFINE_bool(
    "html",
    False,
    "Whether to write comparison.html as well: hover, and sort the table.",
)
flags.DEFINE_list(
    "layers_of", [], "Runs whose sparsity by layer is drawn: paths or names of folders."
)
flags.DEFINE_string("dataset", None, "Compares its runs only.")
flags.DEFINE_string("model", None, "Compares its runs only.")
flags.DEFINE_multi_string(
    "label",
    [],
    "REGEX=NAME: what the runs are called in whose path it is found. Can be repeated; "
    "the first that matches counts.",
)
flags.DEFINE_string("title", "", "Of the pictures, in place of what they show.")


def main(paths):
    values = flags.FLAGS
    with usage_errors():
        runs, skipped = finished_runs.read_runs(paths, _labels(values.label))
        runs = finished_runs.of_one_network(runs, values.dataset, values.model)
    points = summarize(runs)
    figures = [
        (axis.name, pictures.draw_quality(points, axis, values.title))
        for axis in axes.AXES
    ]
    chosen = None
    if values.layers_of:
        with usage_errors("--layers_of"):
            chosen = finished_runs.runs_named(runs, values.layers_of)
            layers = pictures.draw_layers(chosen, points, values.title)
        figures.append(("sparsity_by_layer", layers))
    try:
        # There are no FLOPs of published runs.
        written = list(
            _write(points, [f for f in figures if f[-1] is not None], chosen)
        )
    except OSError as error:
        raise UsageError(f"--output_dir={values.output_dir}: {error}") from error
    if skipped:
        print("skipped:", *(f"  {line}" for line in skipped), sep="\n", file=sys.stderr)
    print(tables.to_markdown(points), *written, sep="\n")


def _labels(texts):
    labels = {}
    for text in texts:
        pattern, _, name = text.rpartition("=")
        if not pattern or not name:
            raise UsageError(f"--label must be REGEX=NAME. Received: {text!r}")
        labels.setdefault(pattern, name)
    return labels


def _write(points, figures, layers_of):
    """Writes what came out, and yields the files."""
    folder = pathlib.Path(flags.FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures:
        yield from pictures.save(figure, folder, name)
    csv, markdown = folder / "comparison.csv", folder / "comparison.md"
    csv.write_text(tables.to_csv(points), encoding="utf-8")
    markdown.write_text(tables.to_markdown(points), encoding="utf-8")
    yield from (csv, markdown)
    if flags.FLAGS.html:
        path = folder / "comparison.html"
        page.write_page(points, path, layers_of, flags.FLAGS.title)
        yield path


def run():
    """The console script."""
    app.run(main, __doc__, takes_arguments=True)


if __name__ == "__main__":
    run()

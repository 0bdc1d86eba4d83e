"""What the calls give back: records that can be asked for more, and that write their own reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from spikformer_deploy.accounting.layers import layers
from spikformer_deploy.accounting.operators import CONVENTIONS, Account, account
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.data.readers import names_of
from spikformer_deploy.inference import energy, results
from spikformer_deploy.inference.exits import ExitRun
from spikformer_deploy.inference.recorded import Recorded, check_layer, has_potential
from spikformer_deploy.inference.timeline import first_image
from spikformer_deploy.operators import count
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.energy import write_tables
from spikformer_deploy.report.operations import layer_rows, table
from spikformer_deploy.report.rasters import raster, rates
from spikformer_deploy.report.sheets import sheets
from spikformer_deploy.report.write import write_files, write_page, write_timeline


class Counting(count.Counting):
    """What was counted while a model ran (see operators.count.Counting), which makes its own tables."""

    __slots__ = ()

    def table(self, *conventions: str) -> str:
        """What each place of the model costs an image, by these conventions: `spikformer-paper` if none is named."""
        names = conventions or ("spikformer-paper",)
        rows = layer_rows(self.counts, self._accounts(names))
        text = StringIO()
        Console(file=text, width=200).print(table(f"An image, by {', '.join(names)}", rows))
        return text.getvalue()

    def to_csv(self, path: str | Path, *conventions: str, by_layer: bool = False) -> None:
        """Write a row for each of these conventions, or for each layer, as CSV; all that there are if none is named.

        Headings hold units; the files are those of sd.energy.  Raises InputError where it cannot be written, for an
        unknown convention, and where none of them has prices.
        """
        write_tables(self.counts, self._accounts(conventions), by_layer, csv_file=path)

    def to_latex(self, path: str | Path, *conventions: str, by_layer: bool = False) -> None:
        """Write the same as a LaTeX table, with the source of each convention below it; it needs booktabs."""
        write_tables(self.counts, self._accounts(conventions), by_layer, latex_file=path)

    def _accounts(self, conventions: Sequence[str]) -> list[Account]:
        return [account(self.counts, name) for name in conventions or CONVENTIONS]


class Counted(energy.Counted):
    """What a float model costs on a set of images (see inference.energy.Counted), which writes its own tables."""

    __slots__ = ()

    def to_csv(self, path: str | Path, *, by_layer: bool = False) -> None:
        """Write a row for each convention, or for each layer, as CSV: headings hold units, figures 12 digits.

        Raises InputError where it cannot be written, or no convention has prices.
        """
        write_tables(self.counts, self.accounts, by_layer, csv_file=path)

    def to_latex(self, path: str | Path, *, by_layer: bool = False) -> None:
        """Write the same as a LaTeX table, with the source of each convention below it; it needs booktabs."""
        write_tables(self.counts, self.accounts, by_layer, latex_file=path)


@dataclass(frozen=True, eq=False, repr=False)
class Run(results.Run):
    """The record of a program on a set of images (see inference.results.Run), which writes its own reports.

    recorded  spikes and potentials of the layers that were asked for; None where none were
    """

    recorded: Recorded | None = None

    def report(
        self,
        path: str | Path,
        float_accuracy: float | None = None,
        title: str | None = None,
        *,
        verdict: results.Verdict | None = None,
        early: ExitRun | None = None,
        csv: str | Path | None = None,
        tex: str | Path | None = None,
        figures: str | Path | None = None,
    ) -> None:
        """Write the HTML report, and tables and pictures as files where a folder is named for them.

        title           in place of model and target
        verdict         what `verify` said of the same images with the float model
        early           what sd.run with early_exit gave of the same images
        float_accuracy  of the float model, where there is no verdict: 0 to 1
        csv, tex        folders that get every table; figures: one that gets every picture as SVG
        Raises InputError where something cannot be written, or the verdict is of another
        number of images, or has another accuracy, or `early` is of another program or number of images.
        """
        if verdict is not None and (verdict.images, verdict.integer_accuracy) != (
            len(self.accumulators),
            self.accuracy,
        ):
            problem = f"it is of {_found(verdict.images, verdict.integer_accuracy)}"
            problem += f", and the run of {_found(len(self.accumulators), self.accuracy)}"
            raise InputError("verdict", problem, "Run and verify the same program on the same images.")
        if early is not None and (len(early.steps), early.program.digest()) != (
            len(self.accumulators),
            self.program.digest(),
        ):
            problem = "it is of another program, or of another number of images"
            raise InputError("early", problem, "Run the same program on the same images.")
        data = report_data(self, float_accuracy, title=title, verdict=verdict, early=early)
        write_page(data, Path(path))
        folders = {"csv": csv, "tex": tex, "figures": figures}
        write_files(data, {kind: None if folder is None else Path(folder) for kind, folder in folders.items()})

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The tables of the report by the names of their files, as rows of plain values.

        pandas.DataFrame(run.tables["layers"]) takes one.  Headings hold units.  Tables that
        have no row, as classes without labels, are left out.
        """
        return {name: sheet.rows for name, sheet in sheets(report_data(self)).items()}

    def timeline(self, path: str | Path, progress: Progress = silent) -> None:
        """Write the first image's way through the chip, message by message, as a trace for the Perfetto UI."""
        write_timeline(first_image(self, progress), Path(path))

    @property
    def layers(self) -> list[dict[str, Any]]:
        """A record of plain values for each layer, in the order of the network: pandas.DataFrame(run.layers).

        name, kind, neurons, channels, height, width  what it is
        firing_rate   share of its neurons that send something in a time step, mean over steps and images
        firing_rates  the same in each step, a list of T
        synaptic_ops  that reach it, an image, mean over the images; dense_macs: where nothing is skipped
        silent        neurons that never sent anything; None where that is not known
        """
        counted = layers(self.program.network, self.events)
        return [
            {
                "name": layer.name,
                "kind": layer.kind,
                "neurons": layer.neurons,
                **dict(zip(("channels", "height", "width"), map(int, layer.shape), strict=True)),
                "firing_rate": float(layer.rate.mean()),
                "firing_rates": layer.rate.tolist(),
                "synaptic_ops": float(layer.synops.sum()),
                "dense_macs": int(layer.dense_macs) * self.events.time_steps,
                "silent": layer.silent,
            }
            for layer in counted
        ]

    def to_records(self) -> list[dict[str, Any]]:
        """A record of plain values for each image, in order: pandas.DataFrame(run.to_records()).

        image       its number, from 0; file: its name in the folder or zip, where it is a file
        prediction  the class with the largest logit; label: its own, where there are labels; class_name: as the program
                    calls it, where it does
        by_step     the class after each time step, a list of T
        logits      a list; of a regression `results` stand here, in the units of the targets, and no class
        """
        logits = self.logits.tolist()
        if self.results is not None:
            return [{"image": i, "results": values} for i, values in enumerate(self.results.tolist())]
        names = self.program.labels
        files = names_of(self.data)
        records = []
        for image, prediction in enumerate(self.predictions.tolist()):
            record: dict[str, Any] = {"image": image}
            if files is not None:
                record["file"] = files[image]
            record["prediction"] = prediction
            if names:
                record["class_name"] = names[prediction]
            if self.labels is not None:
                record["label"] = int(self.labels[image])
            records.append({**record, "by_step": self.classes[image].tolist(), "logits": logits[image]})
        return records

    def spikes(self, layer: str) -> NDArray[np.integer]:
        """What a recorded layer sent, (T, B, C, Y, X): 0 and 1 of binary spikes, in uint8; wider numbers in int32.

        Raises InputError for a layer that there is not, and for one that was not recorded.
        """
        return self._kept(layer).spikes[layer]

    def potentials(self, layer: str) -> NDArray[np.int32]:
        """The potentials of a recorded layer after each step and its reset, (T, B, C, Y, X) int32.

        They are the integers of the chip: the threshold is that of the program's network.  Of the head: its
        accumulators.  Raises InputError as `spikes`, and for a layer that keeps none.
        """
        kept = self._kept(layer)
        if not has_potential(self.program.network[layer]):
            raise InputError(layer, "its neurons keep no potential from step to step", "Ask for its spikes.")
        return kept.potentials[layer]

    def _kept(self, layer: str) -> Recorded:
        check_layer(self.program.network, layer)
        if self.recorded is None or layer not in self.recorded.spikes:
            raise InputError(layer, "it was not recorded", f'Run with record=["{layer}"].')
        return self.recorded

    def raster(self, layer: str, path: str | Path, image: int = 0) -> None:
        """Write which neurons of a recorded layer fire when, on one image, as SVG.

        Raises InputError as `spikes`, and for an image that there is not.
        """
        spikes = self.spikes(layer)
        if not 0 <= image < spikes.shape[1]:
            raise InputError("image", f"{image}, and there are images 0 to {spikes.shape[1] - 1}", "Give one of them.")
        write_whole(_svg(path), raster(spikes[:, image], f"{layer}, image {image}").encode())

    def rates(self, path: str | Path) -> None:
        """Write the firing rate of every spiking layer in every time step, mean over all images, as SVG."""
        spiking = {p.name for p in self.program.network if p.max_out == 1 or p.neuron.fires}
        shown = {layer["name"]: layer["firing_rates"] for layer in self.layers if layer["name"] in spiking}
        title = f"Firing rates, {self.events.images} images"
        write_whole(_svg(path), rates(shown, title).encode())


def _found(images: int, accuracy: float | None) -> str:
    """Images, and what was right of them, in words."""
    return f"{images:,} images" + ("" if accuracy is None else f" at {accuracy:.2%}")


def _svg(path: str | Path) -> Path:
    """The path of a picture.  Raises InputError for the name of another format."""
    if Path(path).suffix.lower() != ".svg":
        raise InputError(str(path), "pictures are written as SVG", "Give a name that ends in .svg.")
    return Path(path)

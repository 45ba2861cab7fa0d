"""The stages in the ALMA pipeline's own chain, on simulated measurement sets: wall times, masks, ranges, QA.

It runs in the pipeline's Python, each step in a process of its own: ``make test-pipeline PIPELINE=<its source>``, or
``python -m benchmarks.almapipe --set SET --out OUT`` there. SET is a folder that ``python -m sim archive`` has made.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BEFORE = "before_masks.context"
AIM = 0.20
"""Share of the chain that both stages are to need at most."""

FOUND_SNR = 5.0
"""Lines of the truth that ranges are judged by: those that a search at its own limit can find."""

LINE_REACH = 1.0
"""A channel belongs to a line within this many FWHMs of its centre, as a box of the catalogue does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps, or one of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.almapipe", description=__doc__)
    parser.add_argument("--set", type=Path, required=True, help="folder of `python -m sim archive`")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--step", choices=sorted(STEPS), help="one step, in the current folder")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    given = parser.parse_args(arguments)
    if given.step:
        STEPS[given.step](given.set.resolve())
        return 0
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for part in given.only:
        folder = out / part
        if folder.exists():
            parser.error(f"{folder} exists already; remove it or choose another --out")
        folder.mkdir()
        for vis in sorted(given.set.resolve().glob("*.ms")):
            shutil.copytree(vis, folder / vis.name)
        for step in PARTS[part]:
            _in_process(step, given.set.resolve(), folder)
    report(given.set.resolve(), out)
    return 0


def _in_process(step: str, data: Path, folder: Path) -> None:
    """A step in a Python of its own, in its folder; its output goes to <step>.log."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.almapipe", "--set", str(data), "--out", str(folder), "--step", step]
    root = str(Path(__file__).resolve().parents[1])
    environment = dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])), "MPLBACKEND": "Agg",
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    }  # fmt: skip
    with open(folder / f"{step}.log", "w", encoding="utf-8") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - begin
    print(f"{folder.name}: {step}: exit {done.returncode}, {seconds:.0f} s", flush=True)
    if done.returncode:
        print("".join(open(folder / f"{step}.log", encoding="utf-8").readlines()[-15:]))
        raise SystemExit(f"{step} failed; its output is in {folder / f'{step}.log'}")


def _start() -> Any:
    """The pipeline, without a plot program that needs a display, and our stages."""
    import pipeline.infrastructure.casa_tasks as casa_tasks
    from pipeline import cli

    from casa_deepfocus import almapipe

    class Nothing:
        def execute(self, *_: Any, **__: Any) -> None:
            """Draws nothing."""

    if not os.environ.get("DISPLAY"):
        casa_tasks.plotms = lambda *_, **__: Nothing()
    almapipe.register()
    return cli


def _context(cli: Any) -> Any:
    """A context with the folder's measurement sets registered as calibrated."""
    from pipeline.domain import DataType
    from pipeline.infrastructure import tablereader

    context = cli.h_init()
    for name in sorted(glob.glob("uid*.ms")):
        for ms in tablereader.ObservingRunReader.get_observing_run(name).measurement_sets:
            ms.session, ms.origin_ms = "session_1", ms.name
            column = "CORRECTED_DATA" if _has_corrected(ms.name) else "DATA"
            ms.set_data_column(DataType.REGCAL_CONTLINE_SCIENCE, column)
            context.observing_run.add_measurement_set(ms)
    return context


def _has_corrected(name: str) -> bool:
    from casatools import table

    tb = table()
    tb.open(name)
    try:
        return "CORRECTED_DATA" in tb.colnames()
    finally:
        tb.close()


@contextlib.contextmanager
def _timed(name: str) -> Iterator[None]:
    begin, used = time.perf_counter(), _processor()
    yield
    with open("times.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps([name, time.perf_counter() - begin, _processor() - used, os.getloadavg()[0]]) + "\n")


def _processor() -> float:
    """Processor time of this process and of those that it has started and that have ended [s]."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _stage(cli: Any, name: str, **parameters: Any) -> Any:
    with _timed(name):
        return cli.get_pipeline_task_with_name(name)(**parameters)


def before(data: Path) -> None:
    """Up to the pending images, the context saved; then the masks in the same process."""
    cli = _start()
    with _timed("context"):
        _context(cli)
    _stage(cli, "hifx_deepfocus")
    _stage(cli, "hif_findcont")
    _stage(cli, "hif_uvcontsub")
    _stage(cli, "hif_makeimlist", specmode="cube")
    cli.h_save(BEFORE)
    result = cli.get_pipeline_task_with_name("hifx_deepfocus_masks")()
    _keep_masks(result, "same_process")
    for name in glob.glob("s*.deepfocus.*.mask"):
        shutil.rmtree(name)


def after(data: Path) -> None:
    """The context resumed: masks, images, products."""
    cli = _start()
    context = cli.h_resume(filename=BEFORE)
    result = _stage(cli, "hifx_deepfocus_masks")
    _keep_masks(result, "resumed")
    _stage(cli, "hif_makeimages")
    _images("ours")
    _stage(cli, "hifa_exportdata")
    cli.h_save()
    print(context.name)


def automatic(data: Path) -> None:
    """The same context resumed, and images with the pipeline's own masks."""
    cli = _start()
    cli.h_resume(filename=BEFORE)
    with _timed("hif_makeimages, automatic masks"):
        cli.hif_makeimages()
    _images("automatic")


def alone(data: Path) -> None:
    """hif_findcont without anything of ours."""
    cli = _start()
    _context(cli)
    _stage(cli, "hif_findcont")


def recipe(data: Path) -> None:
    """The XML procedure, on a context."""
    cli = _start()
    from pipeline import recipereducer

    from casa_deepfocus import almapipe

    context = _context(cli)
    with _timed("procedure"):
        recipereducer.reduce(procedure=str(almapipe.RECIPE), context=context)


def hooked(data: Path) -> None:
    """The hook in a script: the search, and with pending targets the masks."""
    cli = _start()
    from casa_deepfocus.almapipe import hook

    context = _context(cli)
    hook(context)
    cli.hif_makeimlist(specmode="cube")
    hook(context)
    masks = [target["mask"] for target in context.clean_list_pending]
    Path("hook.json").write_text(json.dumps(masks), encoding="utf-8")
    if not any(masks):
        raise SystemExit(f"the hook has set no masks: {masks}")


STEPS = {
    "before": before, "after": after, "automatic": automatic, "alone": alone, "recipe": recipe, "hooked": hooked,
}  # fmt: skip
PARTS = {
    "chain": ("before", "after", "automatic"),
    "findcont": ("alone",),
    "procedure": ("recipe",),
    "hook": ("hooked",),
}


def _keep_masks(result: Any, name: str) -> None:
    """What the masks hold, to be compared."""
    import numpy as np
    from casatools import image

    from casa_deepfocus.almapipe import interfaces

    found = {}
    for about in next(interfaces.rows(result)).made:
        if about["mask"]:
            ia = image()
            ia.open(about["mask"])
            pixels = np.asarray(ia.getchunk()).astype(np.uint8)
            ia.close()
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            found[f"{about['field']} spw{about['spw']}"] = [list(pixels.shape), int(pixels.sum()), digest]
        else:
            found[f"{about['field']} spw{about['spw']}"] = about["reason"]
    Path(f"masks_{name}.json").write_text(json.dumps(found), encoding="utf-8")


def _images(name: str) -> None:
    """Residual rms and model flux of the images that hif_makeimages has just made."""
    import numpy as np
    from casatools import image

    from casa_deepfocus.core.cube import C_KMS

    seen = json.loads(Path("seen.json").read_text(encoding="utf-8")) if Path("seen.json").exists() else []
    found = {}
    models = [one for one in glob.glob("*.cube.I.iter1.model") + glob.glob("*.cube.*I.iter1.model") if one not in seen]
    for model in sorted(set(models)):
        stem = model.removesuffix(".model")
        arrays = {}
        for kind in ("model", "residual", "mask"):
            ia = image()
            ia.open(f"{stem}.{kind}")
            arrays[kind] = np.asarray(ia.getchunk())[:, :, 0, :]
            if kind == "residual":
                good = np.asarray(ia.getchunk(getmask=True))[:, :, 0, :]
                cs = ia.coordsys()
                step = abs(cs.increment(type="spectral")["numeric"][0])
                freq = cs.referencevalue(type="spectral")["numeric"][0]
                cs.done()
            ia.close()
        values = arrays["residual"][good]
        found[stem] = {
            "rms": float(np.std(values)), "mad": float(1.4826 * np.median(np.abs(values - np.median(values)))),
            "worst": float(np.abs(values).max()), "flux": float(arrays["model"].sum() * step / freq * C_KMS),
            "masked": int((arrays["mask"] > 0).sum()), "shape": list(values.shape),
        }  # fmt: skip
    Path("seen.json").write_text(json.dumps([*seen, *models]), encoding="utf-8")
    Path(f"images_{name}.json").write_text(json.dumps(found), encoding="utf-8")


def report(data: Path, out: Path) -> None:
    """Print what the runs have shown."""
    chain = out / "chain"
    if (chain / "times.jsonl").exists():
        _report_times(chain)
        _report_masks(chain)
        _report_images(data, chain)
        _report_qa(chain)
    for name, folder in (("hif_findcont alone", out / "findcont"), ("hifx_deepfocus", chain)):
        if (folder / "cont.dat").exists():
            _report_ranges(data, folder / "cont.dat", name)
    if (out / "procedure").exists():
        _report_qa(out / "procedure")


def _report_times(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "times.jsonl").read_text(encoding="utf-8").splitlines()]
    ours = [row for row in rows if "automatic" not in row[0]]
    totals = [sum(row[column] for row in ours) for column in (1, 2)]
    print("\nstage                                wall [s]   share   processor [s]   share   load of the machine")
    for row in rows:
        name, wall, used, load = row
        shares = [f"{100 * value / total:5.1f} %" for value, total in zip((wall, used), totals, strict=True)]
        shares = shares if row in ours else ["", ""]
        print(f"{name:<36}{wall:9.1f} {shares[0]:>8} {used:14.1f} {shares[1]:>8} {load:12.1f}")
    for column, what in ((1, "wall"), (2, "processor")):
        both, total = sum(row[column] for row in ours if row[0].startswith("hifx_")), totals[column - 1]
        print(
            f"both stages: {both:.1f} of {total:.1f} s {what} time, {100 * both / total:.1f} % (aim {100 * AIM:.0f} %)"
        )


def _report_masks(folder: Path) -> None:
    one, two = (
        json.loads((folder / f"masks_{name}.json").read_text(encoding="utf-8")) for name in ("same_process", "resumed")
    )
    print(f"\nmasks in the same process and in a resumed one: {'the same' if one == two else 'DIFFERENT'}")
    for name, about in one.items():
        print(f"{name}: {about if isinstance(about, str) else f'{about[0]}, {about[1]} pixels'}")
    if one != two:
        raise SystemExit("the masks of a resumed context differ")


def _report_images(data: Path, folder: Path) -> None:
    print(
        "\nimage                                      masks      rms [mJy]  worst [mJy]  model [Jy km/s]  mask pixels"
    )
    total = {}
    for name in ("ours", "automatic"):
        path = folder / f"images_{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for stem, about in found.items():
            print(
                f"{stem[-42:]:<43}{name:<11}{1e3 * about['rms']:9.4f}  {1e3 * about['worst']:11.4f}  "
                f"{about['flux']:15.4f}  {about['masked']:11}"
            )
            total[name] = total.get(name, 0.0) + about["flux"]
    truth = sum(line["flux"] for line in _truth(data))
    print(f"model flux in all: {total}; truth {truth:.4f} Jy km/s, not corrected for the primary beam's loss")


def _truth(data: Path) -> list[dict[str, Any]]:
    from astropy.table import Table

    from casa_deepfocus.core.cube import C_KMS

    found = []
    for path in sorted(data.glob("truth/*/lines.ecsv")):
        table = Table.read(path)
        for row in table:
            half = LINE_REACH * float(row["line_fwhm"]) / C_KMS * float(row["freq"])
            found.append(
                {
                    "target": str(table.meta["target"]), "window": str(row["window"]), "snr": float(row["snr"]),
                    "low": (float(row["freq"]) - half) / 1e9, "high": (float(row["freq"]) + half) / 1e9,
                    "flux": float(row["line_flux"]),
                    "width": float(row["chan_width"]) / C_KMS * float(row["freq"]) / 1e9,
                }
            )  # fmt: skip
    return found


def _report_ranges(data: Path, path: Path, name: str) -> None:
    """Channels of line taken for continuum, and the other way round."""
    import numpy as np
    from astropy.table import Table
    from pipeline.infrastructure.contfilehandler import ContFileHandler

    fields = ContFileHandler(str(path)).cont_ranges["fields"]
    lines = [line for line in _truth(data) if line["snr"] >= FOUND_SNR]
    print(f"\n{name}: ranges of cont.dat beside the truth (lines of SNR {FOUND_SNR:g} and more, one FWHM to each side)")
    print("target, window                                       line channels taken for continuum   free ones left out")
    for table_path in sorted(data.glob("truth/*/lines.ecsv")):
        meta = Table.read(table_path).meta
        for window, low, high in zip(meta["windows"], meta["low"], meta["high"], strict=True):
            mine = [one for one in lines if one["target"] == meta["target"] and one["window"] == window]
            items = [one for one in fields.get(meta["target"], {}).values() if one["spwname"].endswith(window)]
            ranges = [one["range"] for item in items for one in item["ranges"] if isinstance(one, dict)]
            width = mine[0]["width"] if mine else (high - low) / 1e9 / 60
            freq = np.arange(low / 1e9 + 0.5 * width, high / 1e9, width)
            line = np.zeros(len(freq), dtype=bool)
            free = np.zeros(len(freq), dtype=bool)
            for one in mine:
                line |= (freq > one["low"]) & (freq < one["high"])
            for low_end, high_end in ranges:
                free |= (freq > low_end) & (freq < high_end)
            what = f"{meta['target']}, {window}"
            print(f"{what:<52} {int((line & free).sum()):4} of {int(line.sum()):4}"
                  f"{int((~line & ~free).sum()):24} of {int((~line).sum()):4}")  # fmt: skip


def _report_qa(folder: Path) -> None:
    """Scores of our stages as the AQUA report has them."""
    for path in sorted(folder.glob("**/pipeline_aquareport.xml"))[:1]:
        print(f"\nAQUA report of {folder.name}:")
        for stage in ElementTree.parse(path).getroot().iter("Stage"):
            if "deepfocus" not in str(stage.get("Name")).lower():
                continue
            print(f"Stage {stage.get('Number')} {stage.get('Name')}")
            for one in stage:
                if one.tag in ("RepresentativeScore", "SubScore"):
                    metric = one.find("Metric")
                    words = "" if metric is None else f"{metric.get('Name')} = {metric.get('Value')}"
                    print(f"  {one.tag} {one.get('Score')}: {one.get('Reason')} [{words}]")


if __name__ == "__main__":
    sys.exit(main())

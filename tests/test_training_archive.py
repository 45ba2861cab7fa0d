"""The judge of a whole archive run: perfect tables pass, and every way of being wrong is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from sim.archive import folder_name
from sim.archivesky import Target, science_windows
from sim.archivetruth import truth_tables
from sim.skyfile import SkyLine, SkySource
from training.__main__ import main
from training.archive import ASKED_SNR, Judgement, judge, judge_folders

WINDOWS = science_windows(2)
BEAM = 2.0
RA, DEC = 150.0, -28.0
LINES = tuple(SkyLine(window.freq, 60.0, 0.1) for window in WINDOWS)
SOURCES = (
    SkySource(RA, DEC, continuum=0.01, alpha=2.0, freq0=218e9, lines=LINES[:1]),
    SkySource(RA, DEC + 10 / 3600, lines=LINES),
    SkySource(RA, DEC - 10 / 3600, continuum=0.02, alpha=1.0, freq0=218e9),
    SkySource(RA, DEC - 20 / 3600, continuum=0.001, alpha=1.0, freq0=218e9),
)
SNRS = [
    np.array([[20.0, 10.0], [15.0, 0.0]]),
    np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]),
    np.array([[30.0, 20.0]]),
    # Too faint to be asked for, and there all the same.
    np.array([[4.0, 3.0]]),
]
ERROR = 0.05


def truth() -> tuple[Table, Table]:
    target = Target("HD 1", RA, DEC, np.array([[RA, DEC]]), SOURCES)
    return truth_tables(target, WINDOWS, SNRS, BEAM)


def perfect(freq: float = 220e9) -> tuple[Table, Table]:
    """What a perfect run says, its continua at another frequency than the truth's."""
    sources, lines = truth()
    scale = (freq / sources.meta["freq0"]) ** np.nan_to_num(sources["alpha"])
    flux = np.array(sources["continuum"] * scale)
    names = [f"J{number}" for number in range(len(sources))]
    found = Table({"id": names, "ra": sources["ra"], "dec": sources["dec"], "continuum": flux})
    found["continuum_err"] = ERROR * flux + 1e-5
    found["continuum_freq"] = freq
    found["spectral_index"], found["spectral_index_err"] = sources["alpha"], 0.2
    labels = {window.name: f"spw{number}" for number, window in enumerate(WINDOWS)}
    number = {str(name): row for row, name in enumerate(sources["name"])}
    other = lines["ra", "dec", "freq", "line_flux"].copy()
    other["source"] = [names[number[str(name)]] for name in lines["source"]]
    other["window"] = [labels[str(name)] for name in lines["window"]]
    other["line_flux_err"] = ERROR * lines["line_flux"]
    return found, other


def judged(change: Callable[[Table, Table], tuple[Table, Table] | None] | None = None) -> Judgement:
    tables = perfect()
    if change is not None:
        tables = change(*tables) or tables
    return judge(truth(), tables)


def test_the_truth_is_not_trivial() -> None:
    sources, lines = truth()
    asked = sources["snr"] >= ASKED_SNR
    assert asked.sum() == 3 and (sources["continuum"][asked] == 0).sum() == 1 and len(lines) == 3
    assert np.ptp(np.log(perfect()[0]["continuum"][:1] / sources["continuum"][:1])) == 0
    assert perfect()[0]["continuum"][0] > 1.01 * sources["continuum"][0]


def test_a_perfect_run_passes() -> None:
    result = judged()
    assert result.passed, result
    assert (result.sources.found, result.lines.found) == (3, 3)
    assert [len(values) for values in result.pulls.values()] == [2, 3, 2]
    assert max(abs(pull) for _, pull in result.fluxes) < 1e-6


def test_what_is_missed_doubled_or_false_is_seen() -> None:
    assert len(judged(lambda s, _l: (s[1:], _l)).sources.missed) == 1
    # Of a source that is too faint nothing is asked.
    assert judged(lambda s, _l: (s[:3], _l)).passed

    def twice(s: Table, _l: Table) -> None:
        s.add_row(dict(zip(s.colnames, s[0], strict=True)) | {"id": "again"})

    assert len(judged(twice).sources.doubled) == 1 and not judged(twice).passed

    def elsewhere(s: Table, _l: Table) -> None:
        s.add_row(dict(zip(s.colnames, s[0], strict=True)) | {"id": "false", "ra": RA + 5 / 3600})

    assert len(judged(elsewhere).sources.false) == 1 and not judged(elsewhere).passed

    def moved(s: Table, _l: Table) -> None:
        s["dec"][0] += 0.6 * BEAM / 3600

    assert (len(judged(moved).sources.missed), len(judged(moved).sources.false)) == (1, 1)


def test_lines_are_known_by_source_frequency_and_window() -> None:
    def off(_s: Table, lines: Table) -> None:
        lines["freq"][0] *= 1 + 40.0 / 299792.458

    result = judged(off)
    assert (len(result.lines.missed), len(result.lines.false)) == (1, 1)

    def stranger(_s: Table, lines: Table) -> None:
        lines["source"][0] = "J2"

    assert judged(stranger).lines.right and len(judged(stranger).wrong) == 1

    def swapped(_s: Table, lines: Table) -> None:
        lines["window"][1] = "spw1"

    assert judged(swapped).lines.right and judged(swapped).wrong and not judged(swapped).passed
    assert not judged(lambda s, lines: (s, lines[:2])).passed


def test_fluxes_are_held_against_their_errors() -> None:
    def brighter(s: Table, lines: Table) -> None:
        s["continuum"][0] *= 1 + 3 * ERROR
        lines["line_flux"][2] *= 1 - 1.5 * ERROR

    result = judged(brighter)
    assert result.within == pytest.approx(4 / 5) and not result.passed
    off = sorted(pull for _, pull in result.fluxes if abs(pull) > 1e-6)
    assert off == pytest.approx([-1.5, 3.0], rel=0.1)

    def nothing(s: Table, _l: Table) -> None:
        s["continuum"][2] = np.nan

    assert judged(nothing).within == pytest.approx(4 / 5)

    def claimed(s: Table, _l: Table) -> None:
        s["continuum"][1], s["continuum_err"][1] = 0.006, 0.001

    assert len(judged(claimed).wrong) == 1


def write(folder: Path, tables: tuple[Table, Table]) -> None:
    folder.mkdir(parents=True)
    for name, table in zip(("sources", "lines"), tables, strict=True):
        table.write(folder / f"{name}.ecsv", format="ascii.ecsv")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set" / "truth" / folder_name("HD 1"), truth())
    write(tmp_path / "good" / "HD_1", perfect())
    arguments = ["archive", str(tmp_path / "set"), str(tmp_path / "good"), "--check"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 of     3" in printed and "fluxes within 2 errors: 5 of 5 (100.0 %)" in printed

    # A calibrator among the products, and a target that is not there.
    write(tmp_path / "bad" / "J1000-2800", perfect())
    assert main([*arguments[:2], str(tmp_path / "bad"), "--check"]) == 1
    assert main([*arguments[:2], str(tmp_path / "bad")]) == 0
    judgements = judge_folders(tmp_path / "set", tmp_path / "bad")
    assert len(judgements["HD 1"].sources.missed) == 3
    assert len(judgements["J1000-2800"].sources.false) == 4 and len(judgements["J1000-2800"].lines.false) == 3

    assert main(["archive", str(tmp_path / "good"), str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["archive", str(tmp_path), str(tmp_path / "good")]) == 2
    assert "python -m sim archive" in capsys.readouterr().err


def test_a_table_without_a_column_is_named() -> None:
    sources, lines = perfect()
    sources.remove_column("continuum_err")
    with pytest.raises(ValueError, match="continuum_err"):
        judge(truth(), (sources, lines))

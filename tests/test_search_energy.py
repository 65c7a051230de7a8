"""What a piece of work cost: counters where there are any, and no made-up figure where there are none."""

import time
from pathlib import Path

import pytest

from sertune.train.search.energy import CodeCarbon, Meter, Rapl


def zone(folder: Path, name: str, energy: int, most: int = 10_000_000) -> Path:
    """A counter as the kernel shows it."""
    own = folder / f"intel-rapl:{name}"
    own.mkdir(parents=True)
    (own / "name").write_text("package-0\n" if ":" not in name else "core\n")
    (own / "energy_uj").write_text(f"{energy}\n")
    (own / "max_energy_range_uj").write_text(f"{most}\n")
    return own


def test_rapl_adds_up_the_packages_and_passes_the_end_of_a_counter(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", 9_000_000), zone(tmp_path, "1", 500)
    core = zone(tmp_path, "0:0", 100)  # a part of the first, counted there
    rapl = Rapl(tmp_path)
    before = rapl.begin()
    (first / "energy_uj").write_text("1000000\n")  # went through 10,000,000 to 0 and on
    (second / "energy_uj").write_text("3600500\n")
    (core / "energy_uj").write_text("999999999\n")
    assert rapl.end(before) == pytest.approx((2_000_000 + 3_600_000) / 3.6e9)


def test_counters_that_may_not_be_read_are_none(tmp_path: Path) -> None:
    own = zone(tmp_path, "0", 1)
    (own / "energy_uj").unlink()
    assert not Rapl(tmp_path)
    assert not Rapl(tmp_path / "nothing")


def test_a_meter_takes_counters_and_says_so(tmp_path: Path) -> None:
    own = zone(tmp_path, "0", 0)
    meter = Meter(tmp_path)
    assert meter.measures_energy
    assert meter.source == "RAPL, the whole machine"
    with meter.measured() as spent:
        (own / "energy_uj").write_text("7200000\n")
        time.sleep(0.05)
    assert spent().watt_hours == pytest.approx(0.002)
    assert spent().seconds >= 0.05


def test_without_counters_energy_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sertune.train.search.energy._codecarbon", lambda: None)
    meter = Meter(tmp_path)
    assert not meter.measures_energy
    assert meter.source == "not measured"
    with meter.measured() as spent:
        sum(i * i for i in range(300_000))
    assert spent().watt_hours is None
    assert 0 < spent().cpu_seconds < 10


def test_work_that_fails_is_measured_too_and_the_next_one_can_be(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    meter = Meter(tmp_path)
    with pytest.raises(ValueError, match="on purpose"), meter.measured() as spent:
        raise ValueError("on purpose")
    assert spent().watt_hours is not None
    with meter.measured() as spent:
        sum(i * i for i in range(300_000))
    assert spent().watt_hours is not None
    assert spent().watt_hours > 0  # type: ignore[operator]


def test_codecarbon_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    carbon = CodeCarbon()
    assert carbon.end(carbon.begin()) is not None
    assert "estimated" in carbon.source
    assert not list(tmp_path.iterdir())


def test_a_codecarbon_that_breaks_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no hardware that I know")

    monkeypatch.setattr("sertune.train.search.energy.CodeCarbon", broken)
    assert not Meter(tmp_path).measures_energy

import math

from sj_shortcut.spikes.energy import SOURCE, energy_pj


def test_energy_of_arithmetic() -> None:
    assert energy_pj(10, 0) == 9.0 and energy_pj(0, 10) == 46.0
    assert math.isnan(energy_pj(math.nan, math.nan))


def test_the_source_is_named_and_what_is_left_out() -> None:
    for part in ("0.9 pJ", "4.6 pJ", "45 nm", "Horowitz", "ISSCC 2014", "memory traffic"):
        assert part in SOURCE

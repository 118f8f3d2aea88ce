"""The package as it is imported."""

import subprocess
import sys

import pytest

import sj_shortcut
from sj_shortcut import plot_schedule
from tests.plots.tools import PLOTS


def test_importing_the_package_does_not_import_matplotlib() -> None:
    script = "import sys, sj_shortcut; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_plots_are_exported() -> None:
    for plot in (*PLOTS, plot_schedule):
        assert getattr(sj_shortcut, plot.__name__) is plot
        assert plot.__name__ in sj_shortcut.__all__
    with pytest.raises(AttributeError, match="no attribute 'plot_nothing'"):
        _ = sj_shortcut.plot_nothing

"""The package as it is imported."""

import subprocess
import sys

import sj_shortcut
from sj_shortcut import plot_schedule
from tests.plots.tools import PLOTS
from tests.refusals import refused


def test_importing_the_package_does_not_import_matplotlib() -> None:
    script = (
        "import sys, sj_shortcut, sj_shortcut.gradients.columns; dir(sj_shortcut); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_dir_shows_the_public_names() -> None:
    names = dir(sj_shortcut)
    assert [name for name in names if not name.startswith("_")] == sorted(sj_shortcut.__all__)
    private = [name for name in names if name.startswith("_")]
    assert {"__version__", "__all__", "__doc__", "__file__", "__path__"} <= set(private)
    assert all(name.startswith("__") and name.endswith("__") for name in private)
    for name in names:
        assert getattr(sj_shortcut, name) is not None or name in ("__cached__",)


def test_dir_shows_plots_that_were_not_asked_for_yet() -> None:
    script = (
        "import sj_shortcut; names = dir(sj_shortcut); "
        "assert set(sj_shortcut.__all__) <= set(names) and 'plot_history' in names; "
        "assert 'plots' not in names and 'gradients' not in names and 'Any' not in names"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_plots_are_exported() -> None:
    for plot in (*PLOTS, plot_schedule):
        assert getattr(sj_shortcut, plot.__name__) is plot
        assert plot.__name__ in sj_shortcut.__all__
    with refused(AttributeError, "module 'sj_shortcut' has no attribute 'plot_nothing'"):
        _ = sj_shortcut.plot_nothing

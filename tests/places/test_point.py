"""The table of places, as people read it."""

import pytest
import torch
from torch import nn

from sj_shortcut import ShortcutPoint, shortcut_points
from sj_shortcut.places import ShortcutPoints
from tests.nets.zoo import features, nested
from tests.places.tools import OWN_FEATURE

TABLES = {
    True: """\
name     module      channels  stage  usable  on_path  auto  axes  reason
0.0.2    LIFNode     8         1      yes     yes      -     NCHW
0.0      Sequential  8         1      yes     -        -     NCHW
0.1.2    LIFNode     8         1      yes     yes      head  NCHW
0.1      Sequential  8         1      yes     -        -     NCHW
0        Sequential  8         1      yes     -        -     NCHW
1.0.2    LIFNode     16        2      yes     yes      -     NCHW
1.0      Sequential  16        2      yes     -        -     NCHW
1.1.0.2  LIFNode     16        2      yes     -        -     NCHW  the classifier's own feature: left out unless named
1.1.0    Sequential  16        2      yes     -        -     NCHW
1.1      Sequential  16        2      yes     -        -     NCHW
1        Sequential  16        2      yes     -        -     NCHW""",  # noqa: E501
    False: """\
name       module      channels  stage  usable  on_path  auto    axes  reason
0.{0-1}.2  LIFNode     8         1      yes     yes      1 of 2  NCHW
0.{0-1}    Sequential  8         1      yes     -        -       NCHW
0          Sequential  8         1      yes     -        -       NCHW
1.0.2      LIFNode     16        2      yes     yes      -       NCHW
1.{0-1}    Sequential  16        2      yes     -        -       NCHW
1.1.0.2    LIFNode     16        2      yes     -        -       NCHW  the classifier's own feature: left out unless named
1.1.0      Sequential  16        2      yes     -        -       NCHW
1          Sequential  16        2      yes     -        -       NCHW
(11 points, those alike in one row; full=True shows each)""",  # noqa: E501
}


@pytest.mark.parametrize("full", TABLES)
def test_the_table_is_readable(full):
    lines = str(shortcut_points(nested(), full=full)).splitlines()
    assert [line.rstrip() for line in lines] == TABLES[full].splitlines()


def test_the_table_shows_shapes_of_an_example_and_no_cell_is_cut():
    points = shortcut_points(features(), torch.rand(3, 12))
    lines = repr(points).splitlines()
    columns = "name module channels stage usable on_path auto shape reason"
    assert lines[0].split() == columns.split()
    assert lines[1].split() == ["1", "LIFNode", "24", "1", "yes", "yes", "head", "3x24"]
    assert OWN_FEATURE in lines[3]


def test_the_table_of_a_model_without_neurons_says_so():
    points = shortcut_points(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    assert list(points) == []
    assert str(points) == "ShortcutPoints: none (no spiking neuron found)"


def test_numbers_of_rows_alike_become_a_run_or_a_list():
    points = ShortcutPoints(
        ShortcutPoint(f"layer{i}.sn", "LIFNode", 8, 1, True, False, auto=i == 4) for i in (1, 2, 4)
    )
    row = points.to_frame(full=False).iloc[0]
    assert (row["name"], row.auto) == ("layer{1,2,4}.sn", "1 of 3")
    assert len(points.to_frame()) == 3
    assert str(points).splitlines()[-1].startswith("(3 points, those alike in one row")
    points.full = True
    assert len(str(points).splitlines()) == 4


def test_a_notebook_shows_the_same_table():
    points = shortcut_points(nested())
    assert points._repr_html_().count("<tr") == len(points.to_frame(full=False)) + 1

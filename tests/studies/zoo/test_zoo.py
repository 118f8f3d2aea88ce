"""The table of SpikingJelly's models: its program finds what is wrong, and the page says it."""

import dataclasses

import pytest
from torch import nn

from analysis.zoo.check import check
from analysis.zoo.models import Entry, by_cost, entries
from analysis.zoo.page import page, verdict
from analysis.zoo.scripts import from_script


def entry(name: str) -> Entry:
    return next(entry for entry in entries() if entry.name == name)


def test_each_network_has_a_name_of_its_own_and_is_done_once():
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names)) > 75
    assert sorted(names) == sorted(entry.name for entry in by_cost())


def test_a_network_comes_out_of_a_script_that_is_not_run():
    assert issubclass(from_script("lif_fc_mnist.py", "SNN"), nn.Module)
    with pytest.raises(KeyError):
        from_script("lif_fc_mnist.py", "NoSuchNet")
    with pytest.raises(FileNotFoundError):
        from_script("no_such_script.py", "SNN")


def test_a_network_is_right():
    result = check(entry("conv_fashion_mnist.CSNN"))
    assert (result["verdict"], result["heads"]) == ("alone", ["conv_fc.2", "conv_fc.6"])


def test_other_axes_than_the_networks_would_be_found():
    wrong = dataclasses.replace(entry("conv_fashion_mnist.CSNN"), axes="NTC...")
    result = check(wrong)
    assert result["verdict"] == "wrong" and "conv_fc.2" in result["text"]


def test_a_refusal_is_right_for_the_reason_given_alone():
    only_output = entry("lif_fc_mnist.SNN")
    result = check(only_output)
    assert verdict(only_output, result) == f"refused: {only_output.why}"
    assert verdict(dataclasses.replace(only_output, refusal=""), result).startswith("**no**")


def test_a_network_that_is_not_there_is_absent_and_named():
    lacking = dataclasses.replace(entry("lif_fc_mnist.SNN"), make=lambda: {}["gone"])
    result = check(lacking)
    assert result["verdict"] == "absent"
    text = page({"2.0.0": {lacking.name: result}})
    assert f"want of a package that it needs: {lacking.name}." in text


def test_the_page_has_a_row_for_each_generation_only_where_they_differ():
    alone = {"verdict": "alone", "heads": ["a"], "share": 0.125, "text": ""}
    wrong = {"verdict": "wrong", "text": "other | logits\nthan by hand"}
    first, second = (entry.name for entry in entries()[:2])
    text = page({"new": {first: alone, second: alone}, "old": {first: alone, second: wrong}})
    assert f"| `{first}` | `a` | 12.5 % | alone | new, old |" in text
    assert f"| `{second}` | `a` | 12.5 % | alone | new |" in text
    assert f"| `{second}` | - | - | **no**: other / logits than by hand | old |" in text
    assert "- SpikingJelly new: 2 networks: 2 alone." in text
    assert "- SpikingJelly old: 2 networks: 1 alone, 1 no." in text

"""Axes by name: how users write them, and how features are brought into the order of heads."""

import pytest
import torch

from sj_shortcut.places.layout import Layout, check_layout, layout_for, parse_layout

T, N, C = 2, 3, 4


@pytest.mark.parametrize(
    ("text", "shape", "due"),
    [
        ("TNC...", (T, N, C, 5, 6), (T, N, C, 5, 6)),
        ("NTC...", (N, T, C, 5), (T, N, C, 5)),
        ("NC...", (N, C, 5, 6), (N, C, 5, 6)),
        ("NC", (N, C), (N, C)),
        ("TNLC", (T, N, 7, C), (T, N, C, 7)),
        ("NHWC", (N, 5, 6, C), (N, C, 5, 6)),
        ("NCT", (N, C, T), (T, N, C)),
        ("(TN)C...", (T * N, C, 5), (T, N, C, 5)),
        ("(NT)C", (N * T, C), (T, N, C)),
        ("(2N)C", (T * N, C), (T, N, C)),
        ("(N2)LC", (N * T, 7, C), (T, N, C, 7)),
    ],
)
def test_features_are_arranged_for_heads(text, shape, due):
    layout = parse_layout(text, len(shape), steps=T)
    x = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    arranged = layout.arrange(x)
    assert arranged.shape == due
    assert layout.has_time == (due[0] == T)
    assert (layout.channels(shape), layout.samples(shape)) == (C, N)
    assert sorted(layout.positions(shape)) == sorted(due[3:] if layout.has_time else due[2:])
    assert arranged.flatten().sort().values.equal(x.flatten())
    assert (arranged is x) == layout.in_order


def test_folded_time_is_unfolded_in_its_own_order():
    rows = torch.arange(T * N).unsqueeze(1)
    assert parse_layout("(TN)C", 2, T).arrange(rows)[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parse_layout("(NT)C", 2, T).arrange(rows)[..., 0].tolist() == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(ValueError, match="6 rows do not hold 4 time steps"):
        parse_layout("(4N)C", 2).arrange(rows)


@pytest.mark.parametrize("slow", [True, False])
def test_views_folded_beside_time_count_as_steps(slow):
    views = 5
    rows = torch.arange(T * views * N * C).reshape(T, views * N, C)
    split = (views, N) if slow else (N, views)
    due = rows.unflatten(1, split).permute(0, 1 if slow else 2, 2 if slow else 1, 3)
    arranged = Layout(3, batch=1, channel=2, time=0, folded=views, time_first=slow).arrange(rows)
    assert torch.equal(arranged, due.reshape(T * views, N, C))
    turned = Layout(3, batch=0, channel=2, time=1, folded=views, time_first=slow)
    assert torch.equal(turned.arrange(rows.transpose(0, 1)), arranged)


@pytest.mark.parametrize(
    "text",
    ["", "TC", "NNC", "TN", "TTNC", "tnc", "(TT)C", "(N)C", "(0N)C", "T(TN)C", "NC..", "(TN)TC"],
)
def test_what_is_no_layout(text):
    with pytest.raises(ValueError, match=r'layout="[^"]*" is none: a layout names the axes'):
        check_layout(text)
    with pytest.raises(ValueError, match="is none"):
        check_layout({"a": text})


def test_a_layout_must_fit_the_feature():
    with pytest.raises(ValueError, match=r'layout="NTC" names 3 axes, but the feature has 4'):
        parse_layout("NTC", 4)
    with pytest.raises(ValueError, match="does not say how many time steps are folded"):
        parse_layout("(TN)C", 2)
    with pytest.raises(TypeError, match="must be a string"):
        check_layout({"a": 3})
    check_layout(None)


def test_the_first_name_or_pattern_that_fits_counts():
    texts = {"layer1.1": "NC", "layer*": "TNC", "**": "NTC"}
    assert layout_for(texts, "layer1.1") == "NC"
    assert layout_for(texts, "layer2.1") == "TNC"
    assert layout_for({"layer1": "NC"}, "layer1.1") is None
    assert layout_for("NC", "anything") == "NC" and layout_for(None, "a") is None


@pytest.mark.parametrize("text", ["TNC", "NTLC", "NC", "NCL", "(2N)C", "(N2)CL"])
def test_it_prints_as_it_is_read(text):
    letters = text.replace("(2N)", "N").replace("(N2)", "N")
    assert str(parse_layout(text, len(letters))) == text
    assert parse_layout(text, len(letters)).sure
    assert not Layout(2, 0, 1, sure=False).sure

"""existing_code.py: what its comments say of it."""

from tests.examples.data_sets import make_fashion_mnist
from tests.examples.scripts import EXAMPLES, succeed


def test_existing_code_marks_three_lines_and_runs_without_them(tmp_path):
    source = (EXAMPLES / "existing_code.py").read_text()
    marked = [line for line in source.splitlines() if "# <- " in line]
    assert [line[-6:] for line in marked] == ["1 of 3", "2 of 3", "3 of 3"]
    plain = source
    for line in marked:
        plain = plain.replace(line + "\n", "")
    plain = plain.replace("# Without shortcuts: criterion", "criterion")
    plain = plain.replace("    net = remove_shortcuts(net)\n", "")
    make_fashion_mnist(tmp_path / "data")
    (tmp_path / "plain.py").write_text(plain)
    flags = ["-data-dir", tmp_path / "data", *"-T 1 -epochs 1 -b 20 -channels 4".split()]
    succeed(tmp_path / "plain.py", *flags, log=tmp_path / "log")

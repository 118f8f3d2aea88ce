"""torchvision's own readers, on small archives in the genuine formats, and folders of images."""

import io
import json
import tarfile

import pytest

from tests.examples.data_sets import extract, make_cifar, make_fashion_mnist
from tests.examples.scripts import succeed

NET = "--model plain:4 --width 4 --T 1 --epochs 1 --batch-size 10 --workers 0".split()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_binary_format(tmp_path, classes):
    before = make_cifar(tmp_path / "data", classes)
    flags = ["--dataset", f"cifar{classes}", "--data-dir", tmp_path / "data", *NET]
    flags += ["--crop", "--flip", "--autoaugment", "--cutout", "16", "--out", tmp_path / "run"]
    done = succeed("train_cifar.py", *flags, log=tmp_path / "log", before=before)
    images = {10: "100 training and 20 test", 100: "20 training and 20 test"}[classes]
    assert images in done.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"][:2] == ["class 0", "class 1"] and len(config["classes"]) == classes


def test_fashion_mnist_in_its_binary_format_and_the_code_that_adopts_in_three_lines(tmp_path):
    make_fashion_mnist(tmp_path / "data")
    flags = ["--dataset", "fashion-mnist", "--data-dir", tmp_path / "data", *NET]
    succeed("train_cifar.py", *flags, "--out", tmp_path / "run", log=tmp_path / "log")
    flags = ["-data-dir", tmp_path / "data", *"-T 2 -epochs 3 -b 20 -channels 4".split()]
    done = succeed("existing_code.py", *flags, log=tmp_path / "log")
    assert done.out.count("epoch = ") == 3 and "shortcut_head" not in done.out


@pytest.mark.parametrize("filters", [True, False])
def test_an_archive_cannot_write_outside_its_folder(tmp_path, monkeypatch, filters):
    if not filters:  # as in Python 3.11.2, which Debian 12 has
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    outward = tarfile.TarInfo("link")
    outward.type, outward.linkname = tarfile.SYMTYPE, str(tmp_path)
    refused = [tarfile.TarInfo("../out"), tarfile.TarInfo("a/../../out"), outward]
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for info in (*refused, tarfile.TarInfo("in/file")):
            archive.addfile(info, io.BytesIO())
    with tarfile.open(path) as archive:
        *others, fine = archive.getmembers()
        extract(archive, fine, tmp_path / "folder")
        for member in others:
            with pytest.raises((ValueError, tarfile.TarError)):
                extract(archive, member, tmp_path / "folder")
    assert [p.name for p in (tmp_path / "folder").rglob("*")] == ["in", "file"]
    assert not (tmp_path / "out").exists()

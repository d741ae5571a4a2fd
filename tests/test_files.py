"""Folders are adopted whole, under the digest of their content."""

import os
import time

import pytest

from cascade.errors import RegistryError
from promotion.files import adopt_folder, copy_whole, folder_digest


def folder(path, **files):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_digest_depends_on_names_and_contents_alone(tmp_path):
    first = folder(tmp_path / "one", a="1", b="2")
    second = folder(tmp_path / "two", b="2", a="1")
    os.utime(second / "a", (0, 0))
    assert folder_digest(first) == folder_digest(second)
    assert folder_digest(first) != folder_digest(folder(tmp_path / "three", a="2", b="1"))
    (second / "a").rename(second / "c")
    assert folder_digest(first) != folder_digest(second)


def test_adopted_once_and_repaired_when_damaged(tmp_path):
    source, store = folder(tmp_path / "source", a="1"), tmp_path / "store"
    digest = adopt_folder(source, store)
    inode = (store / digest).stat().st_ino
    assert adopt_folder(source, store) == digest
    assert (store / digest).stat().st_ino == inode
    (store / digest / "a").write_text("damaged")
    assert adopt_folder(source, store) == digest
    assert (store / digest / "a").read_text() == "1"


def test_unfinished_copies_are_swept_only_when_old(tmp_path):
    store = tmp_path / "store"
    old = folder(store / f".incoming-{int(time.time()) - 7200}-dead", a="1")
    young = folder(store / f".incoming-{int(time.time())}-alive", a="1")
    os.utime(young, (0, 0))  # copying keeps the times of the source, however old that is
    adopt_folder(folder(tmp_path / "source", a="1"), store)
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: folder(p / "empty")])
def test_nothing_to_adopt(tmp_path, make):
    with pytest.raises(RegistryError, match="missing or empty"):
        adopt_folder(make(tmp_path), tmp_path / "store")


def test_a_folder_is_copied_to_a_name_whole_and_replaced_whole(tmp_path):
    source, target = tmp_path / "source", tmp_path / "out" / "name-v1"
    source.mkdir()
    (source / "weights").write_text("one")
    copy_whole(source, target)
    assert (target / "weights").read_text() == "one"
    (source / "weights").write_text("two")
    (source / "config").write_text("{}")
    copy_whole(source, target)
    assert folder_digest(target) == folder_digest(source)
    assert [path.name for path in target.parent.iterdir()] == ["name-v1"]
    with pytest.raises(RegistryError, match="is missing"):
        copy_whole(tmp_path / "nowhere", target)
    assert (target / "weights").read_text() == "two"

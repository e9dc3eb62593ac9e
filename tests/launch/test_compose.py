from pathlib import Path

from vlp.launch.compose import data_root


def test_data_root_is_the_first_folder_that_exists(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("VLP_DATA", raising=False)
    assert data_root("nothing_here") == str(Path("data/nothing_here"))  # the reader's own error then names it
    for folder in ("shared/data", "data", "work/data"):
        (tmp_path / folder / "photos").mkdir(parents=True)
        assert Path(data_root("photos")).resolve() == tmp_path / folder / "photos"
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    monkeypatch.setenv("VLP_DATA", str(tmp_path / "elsewhere"))
    assert data_root("photos") == str(tmp_path / "elsewhere" / "photos")

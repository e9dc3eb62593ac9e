"""Every catalogue that is offered fits the reader of its name, and mistakes in one of your own are one sentence."""

import re

import pytest
import yaml
from hydra.utils import get_class

from vlp.curation.download.catalogue import describe_catalogue, list_catalogues, load_catalogue, read_catalogue
from vlp.launch.config.compose import conf_folder
from vlp.system.units import readable_bytes

CONF = conf_folder() / "data"


def provided(name, *only):
    return {
        path
        for part in load_catalogue(name).select_parts(only)
        for file in part.files
        for path in file.provides or (file.path,)
    }


def config(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", list_catalogues())
def test_a_catalogue_is_named_as_the_config_that_reads_it(name):
    catalogue = load_catalogue(name)
    read_config = config(name)
    assert read_config["root"] == f"${{data_root:{catalogue.folder}}}"
    assert get_class(read_config["_target_"])
    assert describe_catalogue(catalogue, catalogue.parts).count("://") > sum(
        len(part.files) for part in catalogue.parts
    )


@pytest.mark.parametrize("name", list_catalogues())
def test_addresses_are_official_safe_and_say_what_they_provide(name):
    hosts = {"s3.amazonaws.com", "cs.stanford.edu", "homes.cs.washington.edu", "raw.githubusercontent.com"}
    for file in (file for part in load_catalogue(name).parts for file in part.files):
        assert re.match("https://([^/]+)/", file.url)[1] in hosts
        assert file.provides or file.unpack is None
        assert file.unpack is None or all(path.startswith(file.unpack.removeprefix(".")) for path in file.provides)


def test_the_same_file_is_described_alike_everywhere():
    known = {}
    for file in (file for name in list_catalogues() for part in load_catalogue(name).parts for file in part.files):
        assert known.setdefault(file.url, (file.bytes, file.sha256)) == (file.bytes, file.sha256)


def test_coco_is_what_its_reader_opens():
    options = config("coco")
    splits = {options["train"], options["test"]}
    wanted = {f"annotations/{kind}_{split}.json" for kind in ("captions", "instances") for split in splits}
    assert provided("coco") == wanted | {f"{split}/" for split in splits}
    assert provided("coco", "annotations_2014", "images_2014") == {
        path.replace("2017", "2014") for path in provided("coco")
    }


def test_karpathys_files_are_what_their_readers_open():
    for name, images in (("coco_karpathy", {"train2014/", "val2014/"}), ("flickr30k", set()), ("flickr8k", set())):
        assert provided(name) - {"train.txt", "val.txt", "test.txt"} == {config(name)["annotations"]} | images
        folder = config(name)["images"]
        assert folder == "." or f"{folder}/*.jpg" in load_catalogue(name).by_hand


def test_the_lists_of_flickr30k_entities_are_what_the_official_layout_reads():
    header = (CONF / "flickr.yaml").read_text()
    assert provided("flickr30k", "entities") == set(re.search(r"Flickr30k Entities: (.*?)\)", header)[1].split(", "))


def test_vqa_is_what_its_reader_opens():
    options = config("vqa_v2")
    wanted = {
        options[key].format(split=options["splits"][split])
        for key in ("questions", "annotations")
        for split in ("train", "val")
    }
    images = {options["images"].format(split=split, id=1).partition("/")[0] + "/" for split in ("train2014", "val2014")}
    assert provided("vqa_v2") == wanted | images
    tests = {options["questions"].format(split=split) for split in ("test2015", "test-dev2015")}
    assert provided("vqa_v2", "test") == tests | {"test2015/"}


def test_visual_genome_is_what_its_reader_opens():
    from vlp.datasets.visual_genome import FILES

    wanted = {"image_data.json", *(file for file, _ in FILES.values())}
    assert wanted <= provided("visual_genome", "annotations") | provided("visual_genome", "graphs")
    first = provided("visual_genome", "annotations_1_0") | provided("visual_genome", "graphs_1_0")
    assert {f"v1.0/{file}" for file in wanted} <= first
    assert provided("visual_genome", "images") == {"VG_100K/", "VG_100K_2/"}


def test_parts_are_chosen_by_name():
    catalogue = load_catalogue("visual_genome")
    assert [part.name for part in catalogue.select_parts([])] == ["annotations", "images"]
    assert [part.name for part in catalogue.select_parts(["images"])] == ["images"]
    assert len(catalogue.select_parts(["all"])) == len(catalogue.parts) > 4
    with pytest.raises(ValueError, match="did you mean annotations"):
        catalogue.select_parts(["annotation"])


def test_unknown_sizes_are_said_and_not_guessed():
    assert "2 files of unknown size" in describe_catalogue(
        load_catalogue("visual_genome"), load_catalogue("visual_genome").select_parts(["annotations"])
    )
    assert [readable_bytes(n) for n in (0, 999, 1000, 999_949, 19_336_861_798, 3e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.0 MB", "19.3 GB", "3.0 TB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": "ftp://127.0.0.1/a"}, "not an http or https address"),
        ({"url": "http:///a"}, "not an http or https address"),
        ({"url": None}, "url is missing or not of type str"),
        ({"bytes": "5"}, "bytes is missing or not of type int"),
        ({"bytes": -1}, "bytes is missing or not of type int"),
        ({"bytes": True}, "bytes is missing or not of type int"),
        ({"sha256": "abc"}, "sha256 must be 64 hexadecimal digits"),
        ({"md5": "Z" * 32}, "md5 must be 32"),
        ({"to": "../a"}, "leads out of"),
        ({"to": "/a"}, "leads out of"),
        ({"unpack": "."}, "cannot be unpacked; archives end in"),
        ({"url": "http://127.0.0.1/a.zip", "unpack": "../b"}, "leads out of"),
        ({"sha265": "x"}, "unknown key sha265: did you mean sha256"),
        ({"provides": "a"}, "provides is missing or not of type list"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_place(catalogue_file, changes, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_catalogue(catalogue_file({"url": "http://127.0.0.1/a", **changes}))
    assert "toy.yaml, everything, file 1" in str(caught.value)


def test_a_mistake_in_a_catalogue_is_one_sentence(tmp_path, catalogue_file):
    with pytest.raises(ValueError, match="two addresses would be stored as a"):
        read_catalogue(catalogue_file({"url": "http://127.0.0.1/a"}, {"url": "http://127.0.0.1/b", "to": "a"}))
    path = tmp_path / "mine.yaml"
    for text, words in (
        ("a: [", "not readable as YAML"),
        ("- a", "expected keys and values"),
        ("titles: x", "did you mean title"),
        ("title: x", "folder is missing"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_catalogue(path)
    with pytest.raises(FileNotFoundError, match="no such catalogue"):
        load_catalogue(str(tmp_path / "gone.yaml"))
    with pytest.raises(ValueError, match="did you mean coco"):
        load_catalogue("cocoo")

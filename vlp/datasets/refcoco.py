"""RefCOCO, RefCOCO+ and RefCOCOg in the official files: phrases that name one thing of a COCO photo, and its box.

    refcoco/refs(unc).p    refcoco+/refs(unc).p    refcocog/refs(umd).p     pickles of Python 2: a list of {"ref_id", "ann_id",
                           "image_id", "split", "sentences": [{"sent", "raw", "tokens", "sent_id"}, ..], ..}
    refcoco/instances.json …                COCO's form; the box and the mask of a phrase are those of its ann_id
    train2014/COCO_train2014_*.jpg          the photos of all splits

train, val, testA (people) and testB (other things); RefCOCOg by UMD's split has train, val and test. refs(google).p has no
test and shares photos between its splits. The pickles are read as data, without any class. Every photo, those of val and test
too, is in COCO's train2014: what was trained on COCO's boxes or captions has seen them (Karpathy's split takes its val and
test from val2014 alone). Yu et al., ECCV 2016 (RefCOCO, +); Mao et al., CVPR 2016 (g); github.com/lichengunc/refer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlp.data.annotation_files import clean_captions, is_id, objects_in_list, objects_under_key, read_json, require_path
from vlp.data.boxes import BOX_FAULTS, box_corners, clip_box, photo_size
from vlp.data.datamodule import DataModule
from vlp.data.issues import DataError, SkippedRecords
from vlp.data.masks import check_mask
from vlp.datasets.common.coco_instances import index_by_id, list_images
from vlp.datasets.common.photo_sizes import report_other_size
from vlp.datasets.common.splits import named_splits
from vlp.structures import Sample
from vlp.system.restricted_pickle import load

COCO_TRAIN = "COCO_train2014_"


class RefCOCO(DataModule):
    """A sample is a photo with all phrases of the split, and the box of each.

    folder: of both files, under root.  refs: the pickle.  images: the folder of the photos.  splits: what each split is called
    in the pickle; null = there is none.  masks: of the things as well.
    """

    def __init__(
        self,
        *,
        folder: str,
        refs: str,
        splits: Mapping[str, str | None],
        images: str = "train2014",
        masks: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.folder, self.refs, self.images, self.masks = folder, refs, images, masks
        self.splits = named_splits(splits, setting="data.splits")
        self._listed: list[dict[str, Any]] | None = None
        self._photos: dict[int, dict[str, Any]] = {}
        self._things: dict[int, dict[str, Any]] = {}

    def ground_truth(self, split: str) -> Path:
        """All things of the photos, also those that no phrase names, of all splits."""
        return require_path(self.root / self.folder / "instances.json", description=f"the instances of {self.name}")

    def samples(self, split: str) -> list[Sample]:
        if self.splits[split] is None:
            return []
        path, name = self.root / self.folder / self.refs, str(self.splits[split])
        found: dict[int, list[tuple[dict[str, Any], str]]] = defaultdict(list)  # by photo
        for number, ref in enumerate(self._read()):
            if is_of_split(str(ref.get("split")), name):
                found[ref.get("image_id", -1)].append((ref, f"{path}: [{number}]"))
        samples: list[Sample] = []
        with SkippedRecords(self.faults, path) as left_out:
            for image, refs in found.items():
                with self.faults.catch_errors():
                    sample = self._photo(image, refs[0][1])
                    for ref, place in refs:
                        with self.faults.catch_errors():
                            sample = self._with_phrases(sample, ref, place, left_out, training=split == "train")
                    if sample.captions:
                        samples.append(sample)
        if not found and self._read():
            with self.faults.catch_errors():
                known = ", ".join(sorted({str(ref.get("split")) for ref in self._read()}))
                raise DataError(
                    "unknown split", f"{path} has no phrases of {name!r} (data.splits.{split}): it has {known}"
                )
        if self.faults.collect and split != "train":
            self._report_photos_of_coco(samples, split)
        return samples

    def _read(self) -> list[dict[str, Any]]:
        if self._listed is None:
            self._listed = []
            instances, path = self.root / self.folder / "instances.json", self.root / self.folder / self.refs
            with self.faults.catch_errors():
                content = read_json(instances, description=f"the instances of {self.name}")
                self._photos = list_images(content, place=instances, faults=self.faults)
                things = objects_under_key(content, "annotations", location=instances)
                self._things = index_by_id(things, "annotation", place=instances, faults=self.faults)
            with self.faults.catch_errors():
                require_path(self.root / self.images, description=f"the photos of {self.name}")
            with self.faults.catch_errors():
                content = load(require_path(path, description=f"the phrases of {self.name}"))
                self._listed = objects_in_list(content, location=path)
        return self._listed

    def _photo(self, image: object, place: str) -> Sample:
        record = self._photos.get(image) if is_id(image) else None
        if record is None or not is_id(image):
            raise DataError("annotation of an unknown image", f"{place}: instances.json has no image {str(image)[:40]}")
        file = self.resolve_path(self.root / self.images, record.get("file_name"), location=place)
        report_other_size(file, photo_size(record), faults=self.faults)
        return Sample(id=image, sample=image, image=file, boxes=(), as_stored=True)

    def _with_phrases(
        self, sample: Sample, ref: dict[str, Any], place: str, left_out: SkippedRecords, *, training: bool
    ) -> Sample:
        """With the sentences of a ref, each with the ref's box."""
        sentences = objects_under_key(ref, "sentences", location=place)
        texts = clean_captions(
            (sentence.get("sent") for sentence in sentences), location=place, training=training, skipped=left_out
        )
        thing = self._things.get(ref.get("ann_id", -1))
        size = photo_size(self._photos[sample.id])
        if thing is None or thing.get("image_id") != sample.id or size is None:
            message = f"{place}: instances.json has no thing {str(ref.get('ann_id'))[:40]} of image {sample.id}, or no size of it"
            raise DataError("unknown thing", message)
        corners, mask = thing.get("bbox"), thing.get("segmentation")
        try:
            if not isinstance(corners, list) or len(corners) != 4:
                raise DataError("missing key", "its thing lacks bbox [left, top, width, height]")
            box = clip_box(box_corners(*corners), size)
            if self.masks:
                check_mask(mask, height=size[1], width=size[0])
        except DataError as error:
            if error.kind not in BOX_FAULTS:
                raise DataError(error.kind, f"{place}: {error}") from error
            left_out.add(error.kind, place)
            return sample
        return replace(
            sample,
            captions=sample.captions + texts,
            boxes=(*(sample.boxes or ()), *(box for _ in texts)),
            box_masks=sample.box_masks + (mask,) * len(texts) if self.masks else (),
        )

    def _report_photos_of_coco(self, samples: list[Sample], split: str) -> None:
        seen = sum(Path(str(sample.image)).name.startswith(COCO_TRAIN) for sample in samples)
        if seen:
            message = (
                f"{self.name}: {seen} of {len(samples)} {split} photos are of COCO's train2014: what was trained on COCO's "
                "boxes or captions has seen them"
            )
            self.faults.warn("photo of COCO's train2014", message, count=seen)


def is_of_split(of_ref: str, asked: str) -> bool:
    """As refer.py's `getRefIds`: testA, testB and testC are also what is marked testAB, testBC, …; test is all of these."""
    if asked in ("testA", "testB", "testC"):
        return asked[-1] in of_ref
    return "test" in of_ref if asked == "test" else of_ref == asked

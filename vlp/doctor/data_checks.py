"""The data of the config: annotations against images, texts against the context, splits. What `vlp data check` finds without
decoding a photo, made into findings."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlp.curation.download.catalogue import list_catalogues
from vlp.doctor.finding import Finding, error, fine_finding, warning
from vlp.launch.config.layout import batch_sizes, monitored_source, sources

TRAIN, EVALUATION = 512, 256  # images of a stand-in at most, but four batches
LONG_SHARE = 0.05  # of texts that may be cut without a warning
TEXTS, MISSING = "text longer than the context", "missing file"


def inspect_data(config: dict[str, Any], scale: dict[str, float]) -> dict[str, Any]:
    """Facts: of every split its numbers, its faults and the lengths of its texts; of shards how many there are.

    scale: by split, how many times as many samples the run will have.
    Imports torch, so the doctor has it done by its probe.
    """
    from vlp.curation.check.check import check_data
    from vlp.data.parts import build_data, build_tokenizer
    from vlp.datasets.shards import Shards

    tokenizer = build_tokenizer(config)
    data = build_data(config, tokenizer=tokenizer)
    data.prepare_data()
    report = check_data(data.sources, tokenizer, decode_images=False, compare_images=False)
    splits = {}
    for name, split in report.splits.items():
        lengths = split.lengths
        splits[name] = {
            "samples": round(split.samples * scale[name.rpartition("/")[2]]),
            "images": round(split.images * scale[name.rpartition("/")[2]]),
            "findings": [asdict(finding) for finding in split.findings],
            "lengths": None
            if lengths is None
            else {"context": lengths.context, "count": lengths.count, "cut": lengths.cut, "longest": lengths.longest}
            | {f"p{share}": quantile(lengths.histogram, share / 100) for share in (50, 99)},
        }
    shards = {name: len(source.shards("train")) for name, source in data.sources.items() if isinstance(source, Shards)}
    return {"splits": splits, "shards": shards, "fatal": report.fatal}


def quantile(histogram: dict[int, int], share: float) -> int:
    """The least length that `share` of all texts do not pass."""
    seen, count = 0, sum(histogram.values())
    for length in sorted(histogram):
        seen += histogram[length]
        if seen >= share * count:
            return length
    return 0


def check_images(facts: dict[str, Any], overrides: Sequence[str]) -> Iterator[Finding]:
    check = shlex.join(["vlp", "data", "check", *overrides])
    download = download_command(overrides)
    for name, split in facts["splits"].items():
        for finding in split["findings"]:
            if finding["kind"] == TEXTS:
                continue
            message = f"{name}: {finding['count']} × {finding['kind']}: {finding['examples'][0]}"
            fix = f"{download}    # or: {check}" if download and finding["kind"] == MISSING else check
            yield (error if finding["fatal"] else warning)("data.annotations", message, fix)
        if not split["findings"] and split["samples"]:
            yield fine_finding(
                "data.annotations", f"{name}: {split['samples']:,} samples, {split['images']:,} images, all there"
            )


def download_command(overrides: Sequence[str]) -> str:
    """The command that fetches the data that is chosen, if it is one that vlp knows where to find."""
    chosen = [value for name, _, value in (line.partition("=") for line in overrides) if name == "data"]
    return f"vlp data download {chosen[-1]}" if chosen and chosen[-1] in list_catalogues() else ""


def check_text_lengths(facts: dict[str, Any], truncate: bool) -> Iterator[Finding]:
    """truncate: whether the tokenizer cuts texts that are too long; else they end the run."""
    for name, split in facts["splits"].items():
        if not (lengths := split["lengths"]) or not lengths["count"]:
            continue
        share = lengths["cut"] / lengths["count"]
        message = (
            f"{name}: {share:.1%} of {lengths['count']:,} texts are longer than {lengths['context']} tokens "
            f"(half have up to {lengths['p50']}, 99 % up to {lengths['p99']}, the longest {lengths['longest']})"
        )
        fix = f"vlp train tokenizer.context_length={lengths['p99']}"
        if lengths["cut"] and not truncate:
            yield error("data.text_lengths", message, "vlp train tokenizer.truncate=true")
        elif share > LONG_SHARE:
            yield warning("data.text_lengths", message, fix)
        else:
            yield fine_finding("data.text_lengths", message)


def check_context_length(config: dict[str, Any]) -> Finding:
    """The text tower must take what the tokenizer gives."""
    given = (config.get("tokenizer") or {}).get("context_length")
    taken = ((config.get("model") or {}).get("text") or {}).get("context_length")
    if isinstance(given, int) and isinstance(taken, int) and given > taken:
        message = f"the tokenizer gives up to {given} tokens, the text tower takes {taken}"
        return error("data.context", message, f"vlp train tokenizer.context_length={taken}")
    return fine_finding("data.context", f"texts of up to {given} tokens")


def splits(facts: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    """Training samples are needed, validation where a monitor selects, a test at the end."""
    count = {name: split["samples"] for name, split in facts["splits"].items()}
    by_kind = {
        kind: sum(n for name, n in count.items() if name.endswith(f"/{kind}")) for kind in ("train", "val", "test")
    }
    watched = f"{monitored_source(config)}/val"
    if any(
        finding["fatal"] and finding["kind"] == MISSING for s in facts["splits"].values() for finding in s["findings"]
    ):
        return  # what is not there has no numbers
    if not by_kind["train"]:
        yield error("data.splits", "there are no training samples", "vlp data check    # tells what was read")
    elif watched in count and not count[watched]:
        message = f"{watched} is empty, and monitor={config['monitor']} is measured on it"
        other = next((name for name, n in count.items() if name.endswith("/val") and n), None)
        metric = str(config["monitor"]).split("/", 2)[-1]
        fix = f"vlp train monitor=val/{other.split('/')[0]}/{metric}" if other else ""
        yield error(
            "data.splits", message, fix or "vlp train data.splits.val=FILE    # give the data a validation split"
        )
    elif not by_kind["test"]:
        yield warning(
            "data.splits", "there is no test split: no final figures", "vlp evaluate checkpoint=RUN data=…    # later"
        )
    else:
        yield fine_finding("data.splits", ", ".join(f"{kind} {number:,}" for kind, number in by_kind.items()))


@dataclass(frozen=True)
class StandIn:
    """scale: by split, how many times as many images the run will have."""

    config: dict[str, Any]
    scale: dict[str, float]


def draw_stand_in(config: dict[str, Any], folder: Path) -> StandIn:
    """Generated scenes that are not drawn yet: the doctor draws a part of them into its temporary folder, and scales what it
    sees there. It writes nothing where the run would, and ten thousand pictures would take longer than its time."""
    from vlp.datasets.scenes import scene_folder

    config, scale = copy.deepcopy(config), {"train": 1.0, "val": 1.0, "test": 1.0}
    enough = max(TRAIN, 4 * max(batch_sizes(config).values()))
    for node in sources(config).values():
        if not str(node.get("_target_")).startswith("vlp.datasets.scenes."):
            continue
        images = dict(node["images"])
        drawn = {"images": images, "size": node.get("size", 64), "scene_seed": node.get("scene_seed", 0)}
        drawn["crowded"] = node.get("crowded", False)
        if scene_folder(Path(node["root"]).expanduser(), **drawn).exists():
            continue
        node["root"] = str(folder / "scenes")
        node["images"] = {
            split: min(number, enough if split == "train" else EVALUATION) for split, number in images.items()
        }
        scale |= {split: images[split] / number for split, number in node["images"].items() if number}
    return StandIn(config, scale)

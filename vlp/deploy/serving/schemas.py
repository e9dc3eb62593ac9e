"""The fields of each request. An unknown field is refused: what is ignored in silence is believed to have worked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DATA_URI = "a photo: data:image/jpeg;base64,… (JPEG, PNG or WEBP)"
Words = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Words], Field(min_length=1, max_length=2_000)]
ModelName = Annotated[str | None, Field(description="as /v1/models lists it; may be left out")]


class RequestFields(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: ModelName = None


class EmbeddingFields(RequestFields):
    """As OpenAI's, with photos: by `modality`, or in objects {"text": …} and {"image": …} of one list."""

    input: Annotated[
        Any,
        Field(
            description="a text, a list of texts, a list of data URIs (modality image), or a list of objects text | image",
            examples=[["a red car", "two dogs"], [{"text": "a red car"}, {"image": "data:image/jpeg;base64,…"}]],
        ),
    ]
    modality: Literal["text", "image"] = "text"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1, strict=True, description="the first ones, again of unit length")] = (
        None
    )
    user: str | None = None


class PhotoFields(RequestFields):
    image: Annotated[str | None, Field(description=DATA_URI + "; in a form: the file")] = None


class ClassifyFields(PhotoFields):
    labels: Annotated[Names | None, Field(description="none: those of the model's own classifier")] = None
    templates: Annotated[Names | None, Field(description="prompts with {} for the label")] = None


class MatchFields(PhotoFields):
    texts: Names


class AnswerFields(PhotoFields):
    question: Words
    answers: Annotated[Names | None, Field(description="to choose from, for a model that ranks")] = None


class CaptionFields(PhotoFields):
    pass


class DetectFields(PhotoFields):
    labels: Annotated[Names | None, Field(description="what to look for, by a model that reads texts")] = None
    threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    masks: Annotated[bool, Field(description="also a mask of each thing, a PNG of the photo's size")] = False


class SegmentFields(PhotoFields):
    labels: Annotated[Names | None, Field(description="what to look for, by a model that reads texts")] = None


class HeatFields(PhotoFields):
    phrase: Words


class SearchFields(PhotoFields):
    """As `vlp search`; in the address of GET, or in the body of POST."""

    q: Annotated[Words | None, Field(description='words, also "+a beach -people"; with a photo: both together')] = None
    like: Annotated[int | None, Field(ge=0, description="the id of a photo of the index, in place of an image")] = None
    weight: Annotated[float, Field(ge=0, le=1, description="of the photo, where there are words too")] = 0.5
    k: Annotated[int, Field(ge=1, le=1_000, description="how many photos")] = 20
    offset: Annotated[int, Field(ge=0, le=9_000, description="how many of the best to pass over")] = 0
    folder: Annotated[str | None, Field(description="only photos below it")] = None
    since: Annotated[str | None, Field(description="first year, month or day, as 2024-05; by EXIF date")] = None
    until: Annotated[str | None, Field(description="last year, month or day")] = None

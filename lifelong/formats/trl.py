"""TRL's vision format: Parquet with `messages` in content parts and `images`, as SFTTrainer takes it.

TRL puts the n-th image where the n-th {"type": "image"} part stands; of text with <image> tags it would show every
image before the first question and leave the tags (trl.data_utils.prepare_multimodal_messages).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lifelong.samples import Sample

if TYPE_CHECKING:
    import pyarrow


def export_schema() -> pyarrow.Schema:
    """The columns, with the metadata that tells `datasets` to decode the images."""
    import pyarrow as pa

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = {"dtype": "string", "_type": "Value"}
    content = {"feature": {"type": text, "text": text}, "_type": "List"}
    features = {
        "id": text,
        "messages": {"feature": {"role": text, "content": content}, "_type": "List"},
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = [("id", pa.string()), ("messages", pa.list_(turn)), ("images", pa.list_(image))]
    return pa.schema(columns, metadata=metadata)


def export_row(sample: Sample) -> dict[str, Any]:
    """Return the sample as a row of `export_schema`, with its images' bytes inside."""
    return {
        "id": sample.sample_id,
        "messages": sample.messages,
        "images": [{"bytes": image.read(), "path": image.sha256 + image.suffix} for image in sample.images],
    }

"""The three commands of the README against a real pipeline with random weights."""

import json
from pathlib import Path

from PIL import Image

from onedc_hf import OneDCPipeline


def test_a_photo_goes_through_the_command_line(onedc, photos, tiny_folder):
    assert onedc("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder)[0] == 0
    assert onedc("decompress", "a.odc", "-o", "b.png", "--model", tiny_folder)[0] == 0
    code, out, _ = onedc("info", "a.odc", "--json")
    facts = json.loads(out)
    pipeline = OneDCPipeline.from_pretrained(tiny_folder)
    data = Path("a.odc").read_bytes()
    assert code == 0 and facts["bpp"] == 8 * len(data) / (70 * 50)
    assert facts["model_id"] == pipeline.model_id[:4] and facts["valid"]
    assert data == pipeline.compress("photos/a.png")
    with Image.open("b.png") as rebuilt:
        assert rebuilt.size == (70, 50)
        assert rebuilt.tobytes() == pipeline.decompress(data).tobytes()


def test_a_target_below_the_smallest_file_is_reported_with_that_size(onedc, photos, tiny_folder):
    smallest = len(OneDCPipeline.from_pretrained(tiny_folder).compress("photos/a.png", z_only=True))
    arguments = ("compress", "photos/a.png", "-o", "a.odc", "--model", tiny_folder, "--target-bytes")
    code, _, err = onedc(*arguments, smallest - 1)
    assert code == 1 and f"{smallest} bytes" in err and not Path("a.odc").exists()
    assert onedc(*arguments, smallest)[0] == 0

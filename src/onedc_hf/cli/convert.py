"""`onedc convert`: Turn the authors' released weights into a model folder.

  onedc convert --codec model_1.safetensors --generator model.safetensors --vae FOLDER|REPO --out onedc-full

docs/convert.md says where the weights are found and under which licences.
"""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OneDCError
from .files import UsageError, complain, find_inputs, is_picture, say

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--codec", required=True, metavar="FILE", help="model_1.safetensors of a checkpoint")
    parser.add_argument("--generator", required=True, metavar="FILE", help="its model.safetensors")
    parser.add_argument("--vae", required=True, metavar="FOLDER|REPO", help="the Stable Diffusion 2.1 VAE")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--lora", choices=("merge", "keep"), default="merge", help="the generator's LoRA: into the weights, or beside"
    )
    parser.add_argument("--lora-alpha", type=float, default=8.0, metavar="X", help="its alpha (default: 8)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="what weights are stored in")
    parser.add_argument("--z-only", action="store_true", help="the checkpoint is of the hyper-latent-only model")
    parser.add_argument(
        "--calibrate", nargs="+", metavar="PICTURE", help="other calibration pictures; gives another model id"
    )
    parser.add_argument(
        "--distillation", nargs="+", default=[], metavar="FILE", help="code predictor, tokenizer: for training"
    )
    parser.add_argument("--push-to-hub", metavar="ID", help="then upload the folder to this repository")
    parser.add_argument("--private", action="store_true", help="in a private repository")


def run(arguments: argparse.Namespace) -> int:
    """Convert, say what was made from what, and push."""
    calibrate = None
    if arguments.calibrate:
        calibrate, problems = find_inputs(arguments.calibrate, is_picture)
        for problem in problems:
            complain(problem)
        if not calibrate:
            raise UsageError("--calibrate names no picture")
    if Path(arguments.out).is_dir() and any(Path(arguments.out).iterdir()):
        raise UsageError(f"{arguments.out} is there already and not empty: name another folder with --out")
    repo = None
    if arguments.push_to_hub:  # whoever may not write there should know before the work, not after it
        repo = _open_repository(arguments.push_to_hub, arguments.private)
    import torch

    from ..conversion import convert_checkpoint

    record = convert_checkpoint(
        arguments.codec,
        arguments.generator,
        arguments.vae,
        arguments.out,
        lora=arguments.lora,
        lora_alpha=arguments.lora_alpha,
        dtype=getattr(torch, arguments.dtype),
        z_only=arguments.z_only,
        calibrate=calibrate,
        distillation=arguments.distillation,
    )
    for source in record["sources"]:
        origin = f"  ({source['repository']} at {source['revision']})" if "repository" in source else ""
        say(f"{source['part']}: {source['file']}  {source['sha256']}{origin}")
    say(f"{arguments.out}  model id {record['model_id']}")
    if repo is None:
        return 0
    with _explained(repo, arguments.out):
        from huggingface_hub import upload_folder

        from ..saving import replaced_weights

        readme = Path(arguments.out, "README.md")
        readme.write_text(readme.read_text(encoding="utf-8").replace("THIS/REPOSITORY", repo), encoding="utf-8")
        commit = upload_folder(
            repo_id=repo,
            folder_path=arguments.out,
            commit_message="Convert OneDC",
            delete_patterns=replaced_weights(arguments.out),
        )
        say(commit.commit_url)
    return 0


def _open_repository(wanted: str, private: bool) -> str:
    """Creates the repository if there is none, makes sure that it can be written to, and returns its full id."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx

    from ..hub.push import refuse_public

    api = HfApi()
    try:
        repo: str = api.create_repo(wanted, private=private or None, exist_ok=True).repo_id
        # Whoever may read an existing repository "creates" it without an error. Asking how a file would have to be
        # uploaded needs the right to write, and uploads nothing.
        api.preupload_lfs_files(repo, additions=[CommitOperationAdd("conversion.json", b"{}")])
        refuse_public(repo, private)
    except (HFValidationError, httpx.HTTPError, OSError) as error:
        raise OneDCError(
            f"Nothing was converted, as {wanted!r} cannot be written to: {error} Check the id (`org/name`) and the "
            "network, log in with `hf auth login` (or set HF_TOKEN) with a token that may write there, or leave out "
            "--push-to-hub."
        ) from error
    return repo


@contextmanager
def _explained(repo: str, out: str) -> Iterator[None]:
    """Says what is there, and how to go on, if an upload fails."""
    from huggingface_hub.utils import httpx

    try:
        yield
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise OneDCError(
            f"{out} is converted and complete, but could not be uploaded to {repo!r}: {error} To upload it, without "
            f"converting it again: hf upload {shlex.quote(repo)} {shlex.quote(out)}"
        ) from error

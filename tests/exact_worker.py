"""Run by test_exact_matrix.py in a process of its own: codes the same latents under many settings of torch.

    python exact_worker.py latents.npz

Prints JSON: for each cell (a combination of settings) a digest of every file, of what each file decodes to, and of what
the float entropy model would have written.
"""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import product

import numpy as np
import torch

from onedc_hf import OneDCPipeline
from onedc_hf.coder import Analysed
from onedc_hf.models.context import EntropyModel
from onedc_hf.models.quantize import dequantise_entropy

QUALITY_ROW = 60
FLOAT_ROW = 100


def digest(*arrays: np.ndarray | bytes) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(array if isinstance(array, bytes) else np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def write(pipe: OneDCPipeline, y: torch.Tensor, codes: torch.Tensor, z_index: np.ndarray) -> bytes:
    rows, columns = (16 * side for side in y.shape[2:])
    return pipe._coder.write(
        Analysed(columns, rows, y, z_index, pipe.codec.entropy.hyper_synthesis(codes)), QUALITY_ROW
    )


def float_symbols(entropy: EntropyModel, y: torch.Tensor, codes: torch.Tensor) -> str:
    """Digest of symbols and scale indexes of the float model, which decide its file."""
    parts = []

    def code(step):
        symbols = torch.round((y - step.means) * step.gain) * step.mask
        index = entropy.scale_index(step.scales, FLOAT_ROW) * step.mask.int()
        parts.extend([symbols.to(torch.int32).numpy(), index.numpy()])
        return symbols

    entropy.run_passes(entropy.hyper_synthesis(codes), entropy.gain(FLOAT_ROW), code)
    return digest(*parts)


@torch.inference_mode()
def main() -> None:
    with np.load(sys.argv[1]) as data:
        names = ("y", "half", "codes", "z")
        count = len(data.files) // len(names)
        latents = [tuple(torch.from_numpy(data[f"{name}{i}"]) for name in names) for i in range(count)]
    cells = {}
    for dtype, layout in product((torch.float32, torch.bfloat16), (torch.channels_last, torch.contiguous_format)):
        pipe = OneDCPipeline.from_pretrained(dtype=dtype)
        pipe.codec.to(memory_format=layout)
        floats = dequantise_entropy(pipe._entropy).to(memory_format=layout)
        for threads, mkldnn in product((1, 2), (True, False)):
            torch.set_num_threads(threads)
            files, decoded, float_files = [], [], []
            with torch.backends.mkldnn.flags(enabled=mkldnn):
                for y, half, codes, z_index in latents:
                    y = y.to(memory_format=layout)
                    data = write(pipe, y, codes, z_index.numpy())
                    symbols = pipe.read_symbols(data)
                    files.append(digest(data))
                    decoded.append(digest(symbols.y_hat.numpy(), symbols.semantic_seed.numpy()))
                    if dtype == torch.float32:  # the float model always computes in it: the rest repeats
                        half = half.to(memory_format=layout)
                        float_files.append(float_symbols(floats, half, codes))
            name = f"{dtype} {layout} threads={threads} mkldnn={mkldnn}".replace("torch.", "")
            cells[name] = {"files": files, "decoded": decoded, "float": float_files}
    print(json.dumps(cells))


if __name__ == "__main__":
    main()

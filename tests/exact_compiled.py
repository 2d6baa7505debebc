"""Run by test_exact_matrix.py in processes of its own: a small model's whole entropy path, compiled or not.

    python -m tests.exact_compiled MODEL_FOLDER COUNT eager|compiled

Prints JSON: digests of the files that were written for random latents, and of what they decode to. The model of the
matrix takes minutes to compile; the fixture model has every layer of it, and takes seconds.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch._dynamo.utils

from onedc_hf import OneDCPipeline
from tests.exact_worker import digest, write


@torch.no_grad()  # torch.compile and inference tensors do not go together
def main() -> None:
    folder, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if how not in ("eager", "compiled"):
        raise SystemExit(f"eager or compiled, not {how!r}")
    pipe = OneDCPipeline.from_pretrained(folder, dtype=torch.float32)
    entropy, config = pipe._entropy, pipe.codec.config
    if how == "compiled":
        # Everything that computes between codes and symbols; what stands between these calls is NumPy and the coder.
        torch._dynamo.config.recompile_limit = 64  # each layer's shapes, before it would give up and run eagerly
        for name in ("hyper_synthesis", "gain", "_pass_parameters", "scale_index"):
            setattr(entropy, name, torch.compile(getattr(entropy, name), dynamic=False))
    rng, files, decoded = np.random.default_rng(0), [], []
    for _ in range(count):
        index = rng.integers(0, pipe.codec.z_vq.codebook_size, (1, 1, 2))
        codes = pipe.codec.z_vq.index_to_codes(torch.from_numpy(index))
        y = torch.from_numpy(rng.normal(0, 6, (1, config.y_channels, 4, 8)).astype(np.float32))
        data = write(pipe, y, codes, index[0])  # latents of 128x64 pixels
        symbols = pipe.read_symbols(data)
        files.append(digest(data))
        decoded.append(digest(symbols.y_hat.numpy(), symbols.semantic_seed.numpy()))
    compiled = torch._dynamo.utils.counters["frames"]["ok"]
    print(json.dumps({"files": files, "decoded": decoded, "frames compiled": compiled}))


if __name__ == "__main__":
    main()

# /// script
# requires-python = ">=3.11"
# dependencies = ["onedc-hf[eval]>=0.1.0.dev0,<0.2"]
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# ///
"""Measure a OneDC model on a data set with several processes: `onedc evaluate` as one file to launch.

    accelerate launch pipelines/evaluate_onedc.py --dataset org/photographs --out runs/photographs
    torchrun --nproc_per_node 2 pipelines/evaluate_onedc.py --dataset kodak --data-dir kodak --out runs/kodak
    hf jobs uv run -v hf://buckets/me/results:/out pipelines/evaluate_onedc.py --dataset org/photographs --out /out/run

Every process measures its share of the pictures, on its own device where there are several; the first one gathers. The
rows are those of a single process. Arguments: `onedc evaluate --help`.
"""

import sys

from onedc_hf.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["evaluate", *sys.argv[1:]]))

# /// script
# requires-python = ">=3.11"
# dependencies = ["onedc-hf[train]>=0.1.0.dev0,<0.2"]
#
# [tool.hf-jobs]
# flavor = "l40sx1"
# timeout = "48h"
# secrets = ["HF_TOKEN"]
# ///
"""Train a OneDC model: the trainer of the package as one file to launch.

On this machine, with one process or several, once `pip install 'onedc-hf[train]'` is done:

    python train_onedc.py --config box-stage1 --train_data_dir photographs
    accelerate launch train_onedc.py --config box-stage1 --dataset_name org/photographs --init_from org/onedc

On the Hub. Only this file goes there; what it needs is in its header, and so are the machine, the longest time a run
may take, and the token. An option of the command goes before the header's: `--flavor cpu-upgrade` is enough for
the model in the box. The machine's disk is thrown away at the end, so publish what comes out:

    hf jobs uv run train_onedc.py --config box-stage1 --dataset_name org/photos --push_to_hub --hub_model_id me/mine

Stop it with SIGTERM at any time: it saves, and `--resume_from_checkpoint latest` goes on. Every setting is an argument:
`--help`. The loops are `onedc_hf/training/stage1.py` and `stage2.py`.
"""

from onedc_hf.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

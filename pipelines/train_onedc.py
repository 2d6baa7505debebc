# /// script
# requires-python = ">=3.11"
# dependencies = ["onedc-hf[train]"]
# ///
"""Train a OneDC model, stage 1: the trainer of the package as one file to launch.

    accelerate launch pipelines/train_onedc.py --config box-stage1 --train_data_dir photographs
    python pipelines/train_onedc.py --config box-stage1 --dataset_name org/photographs --init_from org/onedc

Every setting is an argument: `--help`. The loop is `onedc_hf/training/stage1.py`.
"""

from onedc_hf.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

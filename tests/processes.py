"""Run several scripts one after another in each process that torchrun starts; what they print goes to files.

python -m torch.distributed.run --nproc-per-node 2 tests/processes.py FOLDER < commands.json
"""

import one_thread  # noqa: F401

# isort: split

import contextlib
import json
import os
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from utils import distributed

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
torch.set_num_threads(1)
dist.init_process_group("gloo")
distributed.cleanup = lambda: None  # the next script is for the same processes
for name, command in json.loads((folder / "commands.json").read_text()).items():
    sys.argv = command
    said = open(folder / f"{name}.{rank}.out", "w"), open(folder / f"{name}.{rank}.err", "w")  # noqa: SIM115, to the end
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]), contextlib.suppress(SystemExit):
        runpy.run_path(command[0], run_name="__main__")
    for file in said:
        file.close()
    dist.barrier()
dist.destroy_process_group()

"""fedpydeseq2 0.1.1 on folders of centres, in its own environment: DATA OUT NUM_JOBS.

Bytes are those of the pickled states that pass between centres and server in its simulation.
"""
# pyright: reportMissingImports=false

import json
import pickle
import resource
import sys
import time
from pathlib import Path

import fedpydeseq2_datasets
import numpy as np
import pandas as pd
from fedpydeseq2.fedpydeseq2_pipeline import run_fedpydeseq2_experiment
from substrafl.nodes import aggregation_node, train_data_node

data, out, jobs = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True)
said = {"up": 0, "down": 0, "rounds": 0}


def counted(cls, centre):
    """Count what a node sends and is sent."""
    inner = cls.update_states

    def update_states(self, operation, *more, **named):
        result = inner(self, operation, *more, **named)
        if centre:
            said["up"] += len(pickle.dumps(result[1])) if result[1] is not None else 0
            state = operation.shared_state
            said["down"] += len(pickle.dumps(state)) if state is not None else 0
        else:
            said["rounds"] += 1
        return result

    cls.update_states = update_states


counted(train_data_node.SimuTrainDataNode, centre=True)
counted(aggregation_node.SimuAggregationNode, centre=False)
begin = time.perf_counter()
found = run_fedpydeseq2_experiment(
    n_centers=len(list(data.iterdir())),
    backend="subprocess",
    simulate=True,
    register_data=True,
    asset_directory=Path(str(fedpydeseq2_datasets.__file__)).parent / "assets" / "tcga",
    centers_root_directory=data,
    dataset_name="sim",
    save_filepath=out,
    design_factors="condition",
    ref_levels={"condition": "control"},
    contrast=["condition", "treated", "control"],
    refit_cooks=True,
    num_jobs=jobs,
)
wall = time.perf_counter() - begin
usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
fold = pd.DataFrame(found["LFC"])
column = next(name for name in fold.columns if "treated" in str(name))
table = pd.DataFrame(
    {
        "log2_fold_change": np.asarray(fold[column]) / np.log(2),
        "p_value": np.asarray(found["p_values"]),
    },
    index=pd.Index(found["gene_names"], name="gene"),
)
table.to_csv(out / "results.csv")
measured = {
    "wall_s": wall,
    "cpu_s": sum(u.ru_utime + u.ru_stime for u in usage),
    "peak_mb": usage[0].ru_maxrss * 1024 / 1e6,
    "rounds": said["rounds"],
    "up_mb": said["up"] / 1e6,
    "down_mb": said["down"] / 1e6,
}
(out / "found.json").write_text(json.dumps(measured))

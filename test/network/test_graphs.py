"""The graphs' layers leave nothing behind on the disk."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_layer_writes_nothing_to_the_temporary_folder(tmp_path):
    """PyTorch Geometric generates a module for each kind of layer, unless it has a ``propagate`` of its own."""
    program = (
        "import torch; from synctva_ros.network.graphs import Edges, GraphAttentionLayer;"
        "layer = GraphAttentionLayer(8, 2, 0.0).eval();"
        "edges = Edges(torch.tensor([[2, 0], [0, 2]]), torch.zeros(2, dtype=torch.long), torch.zeros(2, 2),"
        " torch.ones(2, dtype=torch.bool));"
        "print(*(tuple(x.shape) for x in layer([torch.ones(2, 8), torch.ones(2, 8)], edges)))"
    )
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == "(2, 8) (2, 8)\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # torch may make an empty folder, once

"""The default network in PyTorch, for gpu_check.py: eager steps on data held on the device.

python scripts/plain_torch.py FILE.npz [--epochs 10] [--batch-size 32]

FILE.npz is that of plain_keras.py. Prints JSON: the seconds of each epoch. Needs torch, which is not installed with
this project.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="FILE.npz")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.load(options.data) as data:
        images = torch.tensor(data["x_train"] / 255, dtype=torch.float32, device=device)
        labels = torch.tensor(data["y_train"], dtype=torch.long, device=device)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)).to(device)
    optimizer, loss, seconds = torch.optim.Adam(model.parameters(), eps=1e-7), nn.CrossEntropyLoss(), []
    for _ in range(options.epochs):
        began = time.perf_counter()
        for rows in torch.randperm(len(images), device=device).split(options.batch_size):
            optimizer.zero_grad()
            loss(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"epoch_seconds": seconds}))


if __name__ == "__main__":
    main()

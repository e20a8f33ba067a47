"""A DataLoader with workers, forked and spawned, and pinned batches, beside a GPU that is in use already."""

import time

import torch
from report import DEVICE, ON_GPU, done, expect, note

COUNT, BATCH = 512, 64


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return torch.full((32,), float(index)), index * index


def main():
    weight = torch.eye(32, device=DEVICE)
    for method in ("fork", "spawn"):
        start = time.perf_counter()
        loader = torch.utils.data.DataLoader(
            Squares(), BATCH, num_workers=2, pin_memory=ON_GPU, multiprocessing_context=method, persistent_workers=True)
        for turn in range(2):
            sums, pinned, targets = 0.0, True, 0
            for x, y in loader:
                pinned = pinned and x.is_pinned()
                sums += float((x.to(DEVICE, non_blocking=True) @ weight).sum())
                targets += int(y.to(DEVICE, non_blocking=True).sum())
            expect(f"{method}, epoch {turn}, sum", sums == 32 * COUNT * (COUNT - 1) / 2, str(sums))
            expect(f"{method}, epoch {turn}, targets", targets == (COUNT - 1) * COUNT * (2 * COUNT - 1) // 6, str(targets))
            expect(f"{method}, epoch {turn}, pinned", pinned or not ON_GPU)
        note(f"{method}: {time.perf_counter() - start:.1f} s")
    done()


if __name__ == "__main__":
    main()

"""torch.multiprocessing: a CUDA tensor shared with a spawned process, which reads it, writes to it, and sends another back."""

import torch
import torch.multiprocessing as multiprocessing
from report import DEVICE, ON_GPU, done, expect, refused, skip


def other(shared, answers, finish):
    try:
        answers.put(("read", float(shared.sum())))
        shared.mul_(3)
        if ON_GPU:
            torch.cuda.synchronize()
        answers.put(("written", None))
        answers.put(("tensor", torch.arange(1000, device=DEVICE, dtype=torch.float32)))
        # A tensor lives as long as the process that made it.
        finish.wait(30)
    except Exception as error:
        answers.put(("failed", f"{type(error).__name__}: {error}"))


def main():
    context = multiprocessing.get_context("spawn")
    shared = torch.ones(1 << 16, device=DEVICE)
    if not ON_GPU:
        shared.share_memory_()
    else:
        try:
            shared.untyped_storage()._share_cuda_()
        except RuntimeError as error:
            if not refused(error):
                raise
            skip(error)
    answers, finish = context.Queue(), context.Event()
    process = context.Process(target=other, args=(shared, answers, finish), daemon=True)
    process.start()
    try:
        for want in ("read", "written", "tensor"):
            what, value = answers.get(timeout=40)
            if what == "failed" and refused(value):
                skip(value)
            expect(f"the other process, {want}", what == want, f"{what}: {value}")
            if what != want:
                break
            if want == "read":
                expect("what it read", value == 1 << 16, str(value))
            if want == "written":
                expect("what it wrote", float(shared.sum()) == 3 << 16, str(float(shared.sum())))
            if want == "tensor":
                expect("what it sent", float(value.sum()) == 499_500.0)
                del value
    finally:
        finish.set()
        process.join(20)
        if process.is_alive():
            process.kill()
    expect("it ended", process.exitcode == 0, str(process.exitcode))
    done()


if __name__ == "__main__":
    main()

"""Worker: time the published step. Started by run.py with its arguments as JSON."""

import gc
import json
import sys
import time
import traceback

import torch
import torch._dynamo
from published_models import build
from worker import ask, figures, finish, out_of_memory, say, time_steps

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05
SIMMIM_CLIP, SIMMIM_BETAS, BETAS = 5.0, (0.9, 0.999), (0.9, 0.95)


def parameter_groups(model):
    """Return AdamW's groups of the published code: no weight decay for biases and 1-D parameters."""
    decayed, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (others if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": WEIGHT_DECAY}]


def gradient_norm(parameters):
    """Return the norm of all gradients as the published `get_grad_norm_` computes it."""
    return torch.norm(
        torch.stack([torch.norm(p.grad.detach(), 2.0) for p in parameters if p.grad is not None])
    )


class Training:
    """A published model, its optimizer and one batch for every step; `start` occupies the device."""

    def __init__(self, args, batch, mode, device):
        self.device, self.mode = device, mode
        self.simmim = args["repository"] == "SimMIM"
        torch.manual_seed(0)
        self.model, self.loss_of = build(
            args["name"], args["repository"], args["published"], args["pixels"], batch, device, args["tiny"]
        )
        self.shape, self.backend = (batch, 3, args["pixels"], args["pixels"]), args["backend"]
        self.loss = None

    def start(self):
        """Occupy the device."""
        model = self.model.to(self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        betas = SIMMIM_BETAS if self.simmim else BETAS
        fused = {"fused": True} if self.mode.startswith("bf16") else {}
        self.optimizer = torch.optim.AdamW(parameter_groups(model), lr=LEARNING_RATE, betas=betas, **fused)
        self.scaler = torch.amp.GradScaler(self.device.type)
        if self.mode.endswith("compile"):
            self.model = torch.compile(model, backend=self.backend)
        self.images = torch.randn(self.shape, device=self.device)

    def step(self):
        """Train one step."""
        (self.fp16_step if self.mode.startswith("fp16") else self.bf16_step)()

    def forward(self, dtype):
        """Compute the loss under autocast."""
        with torch.autocast(self.device.type, dtype=dtype):
            self.loss = self.loss_of(self.model, self.images)

    def fp16_step(self):
        """Train one step as the published `train_one_epoch` does."""
        # A CPU takes seconds for a step in float16.
        self.forward(torch.float16 if self.device.type == "cuda" else torch.bfloat16)
        self.loss.item()
        self.scaler.scale(self.loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.simmim:
            torch.nn.utils.clip_grad_norm_(self.parameters, SIMMIM_CLIP)
        else:
            gradient_norm(self.parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.wait()

    def bf16_step(self):
        """Train one step with bfloat16 and fused AdamW, without waiting for it."""
        self.forward(torch.bfloat16)
        self.loss.backward()
        if self.simmim:
            torch.nn.utils.clip_grad_norm_(self.parameters, SIMMIM_CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def wait(self):
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def run(args, batch, mode, device):
    """Build, compile if asked to, wait for the machine, time and report."""
    compiles = mode.endswith("compile")
    training = Training(args, batch, mode, device)
    ask("need" if compiles else "ready", args["memory"])
    training.start()
    start = time.perf_counter()
    for _ in range(2 if compiles else 0):
        training.step()
    training.wait()
    compile_seconds = time.perf_counter() - start
    if compiles:
        ask("ready", args["memory"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, count = time_steps(training.step, training.wait, **args["stopwatch"])
    cuda = device.type == "cuda"
    result = {
        "mode": mode,
        "pixels": args["pixels"],
        "batch": batch,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "software": f"torch {torch.__version__}, timm {sys.modules['timm'].__version__}",
        **figures(times, count, batch),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
        "compile_s": round(compile_seconds, 1) if compiles else None,
        "loss": round(training.loss.item(), 4),
    }
    del training
    _free(device)
    say("done")
    finish(result)


def run_until_it_fits(args, mode, device):
    """Run a mode; halve the batch as long as the device's memory is too small."""
    batch = args["batch"]
    while True:
        try:
            return run(args, batch, mode, device)
        except Exception as error:
            if not out_of_memory(error) or batch < 2 * args["least_batch"]:
                raise
            print(f"{mode}: batch {batch} does not fit: {str(error)[:300]}", flush=True)
        _free(device)
        say("done")
        batch //= 2


def _free(device):
    """Return the memory of a finished or failed mode to the device."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main():
    args = json.loads(sys.argv[1])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True  # as in the published training scripts
    for mode in args["modes"]:
        try:
            run_until_it_fits(args, mode, device)
        except Exception as error:
            traceback.print_exc()
            error.__traceback__ = None  # it holds the model
            _free(device)
            finish({"mode": mode, "failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
            say("done")


if __name__ == "__main__":
    main()

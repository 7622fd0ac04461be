"""Which settings of ``step`` are fastest on this device: the defaults should be.

    python -m benchmarks.step_choices                   the demo's network on the CPU
    python -m benchmarks.step_choices --device cuda     ResNet-34
    python -m benchmarks.step_choices --out benchmarks/results/step_choices.json

Images/s of the real training loop under each choice over those under the defaults, one change at a time; the choices
take turns. The first steps, which compile, do not count.
"""

import dataclasses
from collections.abc import Sequence

import torch

from benchmarks.epochs import Trainer
from benchmarks.reporting import parser, provenance, write
from benchmarks.training_loop import experiment
from rescaler.config import StepSettings
from rescaler.measure import Spread, turns
from rescaler.precision import cannot_compile

CHOICES = {
    "cpu": {
        "default": StepSettings(),
        "precision=bf16": StepSettings("bf16"),
        "memory_format=contiguous": StepSettings(memory_format="contiguous"),
        "optimizer=foreach": StepSettings(optimizer="foreach"),
        "compile=true": StepSettings(compile=True),
    },
    "cuda": {
        "default": StepSettings(),
        "precision=fp32": StepSettings("fp32"),
        "precision=tf32": StepSettings("tf32"),
        "precision=bf16": StepSettings("bf16"),
        "precision=fp16": StepSettings("fp16"),
        "memory_format=contiguous": StepSettings(memory_format="contiguous"),
        "cudnn_benchmark=true": StepSettings(cudnn_benchmark=True),
        "precision=bf16 cudnn_benchmark=true": StepSettings("bf16", cudnn_benchmark=True),
        "optimizer=foreach": StepSettings(optimizer="foreach"),
        "compile=true": StepSettings(compile=True),
        "precision=bf16 compile=true": StepSettings("bf16", compile=True),
        "precision=bf16 compile=true cuda_graphs=true": StepSettings("bf16", compile=True, cuda_graphs=True),
    },
}
WARM_UP_BATCHES = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the ratios, and write them with what they were measured on."""
    command_line = parser(__doc__)
    command_line.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command_line.add_argument("--rounds", type=int, default=15)
    command_line.add_argument("--round-s", type=float, default=0.5, help="seconds of each choice in a round, about")
    parsed = command_line.parse_args(arguments)
    target = experiment(parsed.device, 0)
    choices = CHOICES[parsed.device]
    if reason := cannot_compile(torch.device(parsed.device)):
        print(f"left out: what torch.compile compiles: {reason}")
        choices = {name: step for name, step in choices.items() if not step.compile}
    trainers, compile_s = {}, {}
    for name, step in choices.items():
        trainers[name] = Trainer(dataclasses.replace(target, step=step))
        compile_s[name] = trainers[name].train(WARM_UP_BATCHES).get("compile", 0.0)
    batch_s = sum(trainers["default"].train(WARM_UP_BATCHES).values()) / WARM_UP_BATCHES
    count = max(1, round(parsed.round_s / batch_s))
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for order in turns(trainers, parsed.rounds):
        for name in order:
            seconds[name].append(sum(trainers[name].train(count).values()))
    report = provenance("step_choices", torch.device(parsed.device))
    report |= {"n": parsed.rounds, "model": target.model["_target_"], "batch_size": target.optim.batch_size}
    print(f"{report['device']}, torch {report['torch']}, {report['model']}, n = {parsed.rounds}; images/s / default's")
    rows = {}
    for name in list(trainers)[1:]:
        spread = Spread.of_ratios(seconds["default"], seconds[name])
        rows[name] = spread._asdict() | {"compile_s": compile_s[name]}
        compiling = f"; {compile_s[name]:.0f} s to compile" if compile_s[name] else ""
        print(f"step.{name:45} {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f}){compiling}")
    write(parsed.out, report | {"times_faster": rows})


if __name__ == "__main__":
    main()

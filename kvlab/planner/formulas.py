"""The formulas of the Plan page with their numbers filled in, as plain text. Each ends in the figure that the page shows."""

from __future__ import annotations

from kvlab.planner.memory import CHUNK, DTYPES, GIB, Bill, Demand, cache_bytes, every_chunk, workspace
from kvlab.planner.roofline import Step

X = "\u00d7"


def size(count: float) -> str:
    """Bytes in GiB, or MiB below a tenth of one; three figures."""
    unit, name = (GIB, "GiB") if abs(count) >= GIB / 10 or not count else (2**20, "MiB") if abs(count) >= 2**20 / 10 else (1024, "KiB")
    value = count / unit
    return f"{value:,.0f} {name}" if abs(value) >= 100 else f"{value:.1f} {name}" if abs(value) >= 10 else f"{value:.2f} {name}"


def weights(demand: Demand) -> str:
    return f"{demand.shape.weights.total:,} parameters {X} {DTYPES[demand.dtype][0]:g} B = {size(demand.weights)}"


def usable(memory: float, share: float, gpus: int) -> str:
    many = f"{gpus} {X} " if gpus > 1 else ""
    return f"{many}{memory:g} GiB {X} {share:.0%} = {size(memory * GIB * share * gpus)}"


def cache(bill: Bill, demand: Demand) -> str:
    """What one user's cache holds at the end, layer by layer kind, and of all users."""
    g, method, tokens, prompt = demand.geometry, bill.method, demand.context, demand.prompt
    total = cache_bytes(method, g, tokens, prompt)
    windows = [window for window in g.windows if window is not None]
    fixed = sum(g.slot_bytes * min(tokens, window - 1) for window in windows)
    parts = [_open(total - fixed, bill, demand)] if g.open_layers else []
    if windows:
        held = sorted({min(tokens, window - 1) for window in windows})
        slots = f"{held[0]:,}" if len(held) == 1 else f"{held[0]:,} to {held[-1]:,}"
        parts.append(f"{len(windows)} layers with a window {X} {slots} tokens {X} {_raw(demand)}")
    copies = f" {X} {demand.copies:g} copies, as {demand.gpus} GPUs share {g.kv_heads} KV heads" if demand.copies > 1 else ""
    return f"{' + '.join(parts)}{copies} = {size(bill.each)} a user; {X} {demand.users:,} users = {size(bill.caches)}"


def _open(count: float, bill: Bill, demand: Demand) -> str:
    g, method = demand.geometry, bill.method
    layers = [i for i, window in enumerate(g.windows) if window is None]
    slots = sum(method.layer_kept(i, demand.context, demand.prompt, g) for i in layers) / len(layers)
    each = count / (slots * len(layers)) if slots else 0
    weight = _raw(demand) if round(each, 3) == g.slot_bytes else f"{each:,.1f} B a slot ({g.slot_bytes:,} B raw)"
    kind = "slots a head" if any(part.budget_knob for part in method.members) else "tokens"
    return f"{len(layers)} layers {X} {slots:,.0f} {kind} {X} {weight}"


def _raw(demand: Demand) -> str:
    g = demand.geometry
    if g.latent:
        return f"(({g.latent[0]} + {g.latent[1]}) {X} {g.itemsize} B + 4 B position)"
    return f"(2 {X} {g.kv_heads} heads {X} {g.head_dim} {X} {g.itemsize} B + 4 B position)"


def before(bill: Bill, demand: Demand) -> str:
    """Why one prompt needs more while it is read."""
    if not bill.before:
        return "nothing is cut, so a prompt that is being read needs no more than later"
    g, prompt = demand.geometry, demand.prompt
    if every_chunk(bill.method):
        return f"one chunk of {min(CHUNK, prompt):,} tokens raw in {g.open_layers} layers = {size(bill.before)}"
    if prompt <= CHUNK:
        return f"one layer of {prompt:,} tokens raw at a time = {size(bill.before)}"
    kept = cache_bytes(bill.method, g, prompt, prompt) * demand.copies
    return f"{prompt:,} tokens raw until the last chunk {size(g.full_bytes(prompt) * demand.copies)} - kept then {size(kept)} = {size(bill.before)}"


def work(bill: Bill, demand: Demand) -> str:
    chunk, step = workspace(demand)
    g, shape, rows = demand.geometry, demand.shape, min(CHUNK, demand.prompt)
    row = f"4 {X} {shape.hidden:,} + 2 {X} {shape.inner:,} + ({g.query_heads} + 2 {X} {g.kv_heads}) {X} {g.head_dim}"
    return (
        f"{rows:,} tokens {X} ({row}) {X} {DTYPES[demand.dtype][1]} B = {size(chunk)}; "
        f"{demand.users:,} users {X} {shape.vocabulary:,} scores {X} 4 B = {size(step * demand.users)}; together {size(bill.workspace)}"
    )


def total(bill: Bill) -> str:
    said = f"{size(bill.weights)} weights + {size(bill.caches)} caches + {size(bill.before)} before the cut + {size(bill.workspace)} workspace"
    end = f"{size(-bill.short)} left" if bill.short <= 0 else f"{size(bill.short)} short"
    return f"{said} = {size(bill.total)} of {size(bill.usable)}: {end}"


def users(bill: Bill, demand: Demand) -> str:
    chunk, step = workspace(demand)
    left = bill.usable - bill.weights - chunk - bill.before
    given = f"{size(bill.usable)} usable - {size(bill.weights)} weights - {size(chunk)} chunk - {size(bill.before)} before the cut"
    if left <= 0:
        return f"{given}: nothing is left"
    return f"({given}) / ({size(bill.each)} + {size(step)} scores) = {left / (bill.each + step):,.2f}, so {bill.users:,} users"


def context(bill: Bill, demand: Demand) -> str:
    if not bill.context:
        return f"not even {demand.written + 1:,} tokens fit for {demand.users:,} users"
    if bill.capped:
        return f"{demand.users:,} users fit at all {bill.context:,} positions of the model"
    return f"the longest context, to 0.2 %, whose total for {demand.users:,} users stays within {size(bill.usable)} = {bill.context:,} tokens"


def decode(step: Step, demand: Demand, bandwidth: float, peak: float) -> str:
    """The two times of a step; the longer one bounds it."""
    gpus = f" {X} {demand.gpus} GPUs" if demand.gpus > 1 else ""
    return (
        f"bytes: ({size(step.weights)} weights + {size(step.caches)} caches) / ({bandwidth / 1e9:,.0f} GB/s{gpus}) = {step.memory_s * 1e3:,.2f} ms; "
        f"operations: {step.flops / 1e9:,.0f} GFLOP / ({peak / 1e12:,.0f} TFLOP/s{gpus}) = {step.compute_s * 1e3:,.2f} ms; "
        f"the longer bounds the step: at most {1 / step.seconds:,.0f} tokens a second for each user"
    )

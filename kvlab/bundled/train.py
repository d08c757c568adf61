"""`python -m kvlab train`: trains the bundled model; resumable, logged and reproducible.

The folder given by --run holds the newest checkpoint (weights, both optimizers,
step) and log.jsonl. Starting again with the same folder goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from kvlab.bundled import batches, optim, ruler, tokenizer
from kvlab.bundled.words import BLENDED, TRAIN, Words


def config(vocab: int, hidden: int = 192, layers: int = 6, inner: int = 384) -> Qwen3Config:
    """Qwen3 with 8 query heads, 4 key-value heads of size 32 and tied embeddings."""
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def new_model(cfg: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """Freshly initialised float32 model; q/k norms start at 1.5 so that attention can be sharp."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(cfg)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(1.5)
            layer.self_attn.k_norm.weight.fill_(1.5)
    return model.train()


def loss_of(model, batch: batches.Batch, step: int) -> tuple[torch.Tensor, float]:
    """Weighted mean cross-entropy in nats, and the plain mean over answer tokens.

    Half of the tokens outside answers are left out, because the output layer is
    a fifth of the arithmetic. The mask {"full_attention": None} means plain
    causal attention; without it the library takes position gaps for packed documents.
    """
    hidden = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask={"full_attention": None},
        use_cache=False,
    ).last_hidden_state
    keep = torch.rand(batch.weights.shape, generator=torch.Generator().manual_seed(step)) < 0.5
    weights = batch.weights * (keep | (batch.weights > 1))
    chosen = weights > 0
    targets = torch.roll(batch.ids, -1, dims=1)[chosen]
    losses = F.cross_entropy(model.lm_head(hidden[chosen]).float(), targets, reduction="none")
    weights = weights[chosen]
    answers = losses[weights > 1]
    return (losses * weights).sum() / weights.sum(), float(answers.detach().mean()) if len(answers) else 0.0


def save_checkpoint(run: Path, model, optimizers, step: int, seconds: float) -> None:
    """Writes checkpoint.pt atomically."""
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, run / "checkpoint.tmp")
    os.replace(run / "checkpoint.tmp", run / "checkpoint.pt")


def export(model, tokens, out: Path) -> None:
    """Writes the float16 Hugging Face folder file by file, each replaced atomically."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        copy = Qwen3ForCausalLM(model.config)
        copy.load_state_dict(model.state_dict())
        copy.to(torch.float16).save_pretrained(folder)
        # an answer is one line: without the line's end the model would go on and ask itself the next question
        ends = [1, *tokens.encode("\n", add_special_tokens=False)]
        GenerationConfig(bos_token_id=0, eos_token_id=ends, pad_token_id=2, do_sample=False).save_pretrained(folder)
        tokens.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            shutil.copyfile(path, out / f".{path.name}.tmp")
            os.replace(out / f".{path.name}.tmp", out / path.name)


def _restore(run: Path, model, optimizers) -> tuple[int, float]:
    path = run / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def train(args, model, tokens) -> None:
    """Steps from the checkpoint (or 0) to --stop or --steps."""
    run = Path(args.run)
    run.mkdir(parents=True, exist_ok=True)
    optimizers = optim.build(model, args.muon_lr, args.adam_lr)
    first, before = _restore(run, model, optimizers)
    rows = batches.Rows(tokens, args.seed)
    start = saved = time.monotonic()
    for step in range(first, min(args.stop or args.steps, args.steps)):
        progress = step / args.steps
        began = time.monotonic()
        length, mix, words = _plan(args, step, progress)
        batch = rows.batch(step, length, args.tokens, mix, words)
        loss, answer_loss = loss_of(model, batch, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * optim.scale(step, args.steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.monotonic()
        _log(run, step=step, length=length, loss=float(loss.detach()), answer_loss=answer_loss,
             tokens_per_s=batch.ids.numel() / (now - began), seconds=before + now - start)
        if now - saved > args.save_every:
            save_checkpoint(run, model, optimizers, step + 1, before + now - start)
            export(model, tokens, Path(args.out))
            saved = now
    save_checkpoint(run, model, optimizers, max(first, min(args.stop or args.steps, args.steps)),
                    before + time.monotonic() - start)
    export(model, tokens, Path(args.out))


def _plan(args, step: int, progress: float) -> tuple[int, dict[str, float], Words]:
    """Row length, shares of the forms, and words of a step."""
    if args.third:
        return batches.second_length(args.seed + 1, step), batches.THIRD, ruler.wide()
    if args.second:
        return batches.second_length(args.seed, step), batches.NARROW if step >= args.narrow_from else batches.SECOND, ruler.wide()
    words = BLENDED if step >= args.blend_from else TRAIN
    return args.length or batches.length_for(args.seed, step, progress), batches.EARLY if progress < 0.35 else batches.LATE, words


def _log(run: Path, **entry) -> None:
    entry = {k: round(v, 4) if isinstance(v, float) else v for k, v in entry.items()}
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    if entry["step"] % 20 == 0:
        print(json.dumps(entry), flush=True)


def main(argv: list[str]) -> int:
    """Entry point of `python -m kvlab train`."""
    parser = argparse.ArgumentParser(prog="kvlab train", description=__doc__)
    parser.add_argument("--run", default=".runs/bundled", help="folder of the checkpoint and log")
    parser.add_argument("--out", default="data/model", help="folder of the exported model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--stop", type=int, default=0, help="stop early at this step")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--length", type=int, default=0, help="fixed row length instead of the curriculum")
    parser.add_argument("--blend-from", type=int, default=1466, help="step from which key words are blended")
    parser.add_argument("--second", type=Path, metavar="MODEL", help="the second part: go on from this model folder with all forms and wide words")
    parser.add_argument("--third", type=Path, metavar="MODEL", help="the third part: go on from this model folder with samples of the tasks in the mix")
    parser.add_argument("--narrow-from", type=int, default=2400, help="step of the second part from which most documents use few words")
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--inner", type=int, default=384)
    parser.add_argument("--muon-lr", type=float, default=0.012)
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    run = Path(args.run)
    if begun := args.second or args.third:
        model = Qwen3ForCausalLM.from_pretrained(begun, dtype=torch.float32).train()
        train(args, model, AutoTokenizer.from_pretrained(begun))
        return 0
    if not (run / "tokenizer").exists():
        tokenizer.build(args.seed).save_pretrained(run / "tokenizer")
    tokens = AutoTokenizer.from_pretrained(run / "tokenizer")
    cfg = config(len(tokens), args.hidden, args.layers, args.inner)
    train(args, new_model(cfg, args.seed), tokens)
    return 0

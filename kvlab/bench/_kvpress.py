"""kvpress behind a pipe: one JSON object per line in, one out. Run by the interpreter that has kvpress; nothing of kvlab is imported.

    load      model, dtype, threads              -> versions
    start     press, knobs, ids, filters, every  -> seconds, cpu, tokens (one), bytes held   the prompt, under the press
    write     count                              -> seconds, cpu, tokens, bytes held         greedy tokens
    kept      as start                           -> kept [layer][head][positions]            a prompt of its own, untimed

`every`: slots the cache is cut to after each token by kvpress's DecodingPress around the same press; null: nothing is dropped any more.
Anything that fails is answered with {"error": ...}. kvpress keeps no positions, so `kept` finds each key in the uncompressed cache.
"""

import contextlib
import json
import platform
import sys
import time
from importlib.metadata import version

import kvpress
import torch
from transformers import AutoModelForCausalLM, DynamicCache


class Peer:
    """One model, and the cache of the prompt that was read last."""

    def load(self, model, dtype, threads):
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        return {"kvpress": version("kvpress"), "torch": torch.__version__, "transformers": version("transformers"), "python": platform.python_version()}

    def start(self, press, knobs, ids, filters=None, every=None):
        later = self.made(press, {**knobs, "compression_ratio": 0}, filters) if every else None
        self.every = kvpress.DecodingPress(later, compression_interval=1, target_size=every) if every else None
        press = self.made(press, knobs, filters)
        self.seen, self.cache = len(ids), DynamicCache()
        with press(self.model) if press else contextlib.nullcontext():
            return self.timed(lambda: [self.next(torch.tensor([ids]))])

    def write(self, count):
        def tokens():
            found = []
            for _ in range(count):
                position = torch.tensor([[self.seen]])  # the cache's own count of tokens is wrong once some were dropped
                found.append(self.next(torch.tensor([[self.token]]), position_ids=position))
                self.seen += 1
            return found

        with self.every(self.model) if self.every else contextlib.nullcontext():
            return self.timed(tokens)

    def kept(self, press, knobs, ids, filters=None, every=None):
        self.start(None, {}, ids)
        whole = [(layer.keys[0], layer.values[0]) for layer in self.cache.layers]
        self.start(press, knobs, ids, filters)
        found = []
        for layer, block, full in zip(self.cache.layers, self.model.model.layers, whole, strict=True):
            places = [{row: i for i, row in enumerate(rows(k, v))} for k, v in zip(*full, strict=True)]
            positions = [sorted(place[row] for row in rows(k, v)) for place, k, v in zip(places, layer.keys[0], layer.values[0], strict=True)]
            masked = getattr(block.self_attn, "masked_key_indices", None)
            if press == "AdaKVPress" and masked is not None:
                gone = [set(masked[2][masked[1] == head].tolist()) for head in range(len(positions))]
                positions = [[i for i in head if i not in out] for head, out in zip(positions, gone, strict=True)]
            found.append(positions)
        return {"kept": found}

    def made(self, name, knobs, filters):
        """The press, a press within its own knobs made first."""
        if name is None:
            return None
        knobs = {key: self.made(*value, filters) if key == "press" else value for key, value in knobs.items()}
        press = getattr(kvpress, name)(**knobs)
        if filters is not None and hasattr(press, "q_filters"):
            press.q_filters = torch.tensor(filters)
            press.post_init_from_model = lambda model: None  # would download filters, which exist for listed models only
        return press

    def next(self, ids, **more):
        self.token = int(self.model(input_ids=ids, past_key_values=self.cache, logits_to_keep=1, **more).logits[0, -1].argmax())
        return self.token

    def timed(self, act):
        wall, cpu = time.perf_counter(), time.process_time()
        tokens = act()
        seconds = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for layer in self.cache.layers for t in (layer.keys, layer.values)}
        return {**seconds, "tokens": tokens, "bytes": sum(held.values())}


def rows(keys, values):
    """Each slot of a head as bytes: keys and values [T, D] -> T of them."""
    return [row.tobytes() for row in torch.cat([keys, values], dim=1).numpy()]


@torch.no_grad()
def main():
    """Answer until the pipe is closed."""
    peer, out = Peer(), sys.stdout
    sys.stdout = sys.stderr  # libraries may print: the pipe is for answers
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = getattr(peer, asked.pop("do"))(**asked)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(told), file=out, flush=True)


if __name__ == "__main__":
    main()

"""kvlab: run real generation under any KV-cache compression method, see what was kept, measure what it cost.

Shape letters, used in every comment and docstring:

    B  rows of the batch          Hq  query heads            H  KV heads
    G  Hq // H, queries per KV head                          L  layers
    T  slots held in a layer      t   new tokens of a call   D  size of a head
    P  positions (tokens seen)    S   decode steps           N  rows of packed storage, all (b, h) end to end

Two rules carry everything. Positions are data: each slot stores its true position, -1 is a hole, and the attention mask is a
comparison of positions. Bytes are measured: a figure is the sum of the storages of the tensors really held.
"""

__version__ = "0.1.0"

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Bits and time steps
#
# Every setting against every other, on some images of handwritten digits.

# %%
import spikformer_deploy as sd

LIMIT = 60
BITS = (8, 3)

# %%
rows = sd.sweep("digits-v1", "digits", limit=LIMIT, weight_bits=BITS, time_steps=(2, 4))
for row in rows:
    print(row["weight_bits"], row["time_steps"], f"{row['accuracy']:.3f}", row["memory_words"])

# %% [markdown]
# The smallest that keeps 95 % of these images. They choose the setting: the number to publish comes from others.

# %%
good = [row for row in rows if "refused" not in row and row["accuracy"] > 0.95]
best = min(good, key=lambda row: row["memory_words"])
program = sd.compile("digits-v1", weight_bits=best["weight_bits"], time_steps=best["time_steps"])
program

# %%
run = sd.run(program, "digits", limit=LIMIT, record=["output"])
run.rates("rates.svg")
run.potentials("output").shape  # (T, images, classes, 1, 1)

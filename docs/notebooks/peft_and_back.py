# %% [markdown]
# # Peft and back

# %% [markdown]
# # Lora in ten minutes

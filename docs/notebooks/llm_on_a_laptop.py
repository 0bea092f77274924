# %% [markdown]
# # Llm on a laptop

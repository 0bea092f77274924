# %% [markdown]
# # What rank does

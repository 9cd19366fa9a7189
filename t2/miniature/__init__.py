"""The embedded base model: generators of its problems, and its pretraining.

A Llama of under a million parameters that ships with the project, so that the whole experiment runs without
a download. It shows that the machinery works. It is no evidence for the size of the paper's effects: its
abilities are latent by design. In pretraining a share of the replies is careless, predictably from how the
prompt opens and closes, and what training elicits is care.
"""

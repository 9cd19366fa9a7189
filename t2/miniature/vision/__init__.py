"""The miniature that sees: a LLaVA of about a million parameters, its pictures, its questions and its pretraining.

A CLIP vision tower and a projector before the language model that :mod:`t2.miniature` pretrains. As there, a share of
the replies is careless, predictably from how the prompt opens and closes: it shows that the machinery works, and is
no evidence for the size of the paper's effects.
"""

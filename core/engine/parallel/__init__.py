"""How an update is carried out over processes, in parts: exchange, gradient arena, step, and transforms of the model.

``table``: which parts make up a strategy. ``strategy``: the parts put together. ``transforms``: what may be done to a model first.
"""

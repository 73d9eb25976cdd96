"""How far an estimate is from the high clip: numbers per clip (``METRICS``), and one per set of clips (``distance``).

Logarithms of power ratios are base 10 without a factor, as the field has them: an LSD is near 1 and never near 30. A
decibel LSD would be ten times that; none is offered, and no key or argument scales one.
"""

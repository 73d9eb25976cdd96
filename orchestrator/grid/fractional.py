"""Regular two-level fractions: which products of factors generate the others, and what is then confounded with what.

A cell is a tuple of bits, 0 for the baseline. A generated factor is the exclusive or of its generators' bits, so that
the all-baseline cell is always part of the fraction. Terms and method: Montgomery, Design and Analysis of Experiments,
chapter 8; the words of the defining relation are those of I = ABCD and its like.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple


class Fraction(NamedTuple):
    """``generators``: each generated factor and the factors it is the product of; ``words``: the defining relation."""

    factors: tuple[str, ...]
    generators: dict[str, tuple[str, ...]]
    words: tuple[frozenset[str], ...]

    def cells(self) -> Iterator[tuple[int, ...]]:
        """Yield each cell as one bit per factor, in the order of ``factors``."""
        free = [name for name in self.factors if name not in self.generators]
        for bits in product((0, 1), repeat=len(free)):
            chosen = dict(zip(free, bits, strict=True))
            for name, parents in self.generators.items():
                chosen[name] = sum(chosen[parent] for parent in parents) % 2
            yield tuple(chosen[name] for name in self.factors)

    def aliases(self, effect: Sequence[str], largest: int = 3) -> tuple[str, ...]:
        """Return the effects of at most ``largest`` factors that this design cannot tell from ``effect``."""
        others = [frozenset(effect) ^ word for word in self.words]
        named = [sorted(other, key=self.factors.index) for other in others if 0 < len(other) <= largest]
        return tuple(":".join(names) for names in sorted(named, key=lambda names: (len(names), names)))

    def confounded_with(self) -> dict[str, tuple[str, ...]]:
        """Return the aliases of every main effect and two-factor interaction that has any."""
        effects = [names for order in (1, 2) for names in combinations(self.factors, order)]
        return {":".join(names): aliases for names in effects if (aliases := self.aliases(names))}

    def relation(self) -> tuple[str, ...]:
        """Return the defining relation, e.g. ``('I = text:rolloff:lfr:size',)``; odd words have a minus sign."""
        words = [sorted(word, key=self.factors.index) for word in self.words]
        ordered = sorted(words, key=lambda word: (len(word), word))
        return tuple(f"I = {'-' if len(word) % 2 else ''}{':'.join(word)}" for word in ordered)


def fraction(factors: Sequence[str], resolution: int) -> Fraction:
    """Return the smallest regular fraction whose words have at least ``resolution`` factors, or the full design."""
    for free in range(1, len(factors)):
        parents = factors[:free]
        candidates = [
            frozenset(chosen) for order in range(free, resolution - 2, -1) for chosen in combinations(parents, order)
        ]
        generated = _generate(factors[free:], candidates, (), resolution)
        if generated is not None:
            generators, words = generated
            ordered = {name: tuple(sorted(chosen, key=parents.index)) for name, chosen in generators.items()}
            return Fraction(tuple(factors), ordered, words)
    return Fraction(tuple(factors), {}, ())


def _generate(
    names: Sequence[str], candidates: Sequence[frozenset[str]], words: tuple[frozenset[str], ...], resolution: int
) -> tuple[dict[str, frozenset[str]], tuple[frozenset[str], ...]] | None:
    """Return generators for ``names`` that keep every word long enough, by depth-first search."""
    if not names:
        return {}, words
    for position, chosen in enumerate(candidates):
        word = chosen | {names[0]}
        grown = (word, *(word ^ other for other in words))
        if all(len(new) >= resolution for new in grown):
            rest = _generate(names[1:], candidates[position + 1 :], (*words, *grown), resolution)
            if rest is not None:
                return {names[0]: chosen, **rest[0]}, rest[1]
    return None

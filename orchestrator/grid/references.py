"""What a grid says of factors and levels by name: rules, the steps of the ladder, what is promoted.

``where`` is a list of rules that every cell of the design must keep::

    where:
      - {if: {size: full}, then: {text: caption, rolloff: on}}     # the full size only for these
      - {not: {text: off, rolloff: off}}                           # never both off
      - {if: {size: full}, then: {latent_dropout: [off, 0.1]}}     # a list means any of them
"""

from collections.abc import Mapping, Sequence

from orchestrator.grid.factors import cell_name
from orchestrator.grid.levels import level_name, read_condition, read_levels
from orchestrator.grid.schema import PROMOTE_EXAMPLE, LadderStep, PromoteEntry, RuleEntry
from orchestrator.grid.space import Factor, Promote, Rule, Step
from sagasr.config.faults import Faults
from sagasr.io.errors import did_you_mean

Factors = Mapping[str, Factor]


def read_rules(entries: Sequence[RuleEntry], factors: Factors) -> tuple[Rule, ...]:
    """Return the rules of ``where``. Raises ConfigError."""
    rules, faults = [], Faults()
    for position, entry in enumerate(entries):
        here = f"where.{position}"
        with faults.collecting():
            given = read_condition(entry.given, factors, here)
            rules.append(Rule(given, None if entry.wanted is None else read_condition(entry.wanted, factors, here)))
    faults.stop()
    return tuple(rules)


def read_ladder(entries: Sequence[LadderStep], factors: Factors) -> tuple[Step, ...]:
    """Return the steps of the ladder. One that names no other is compared with the step before. Raises ConfigError."""
    baseline = {name: factor.baseline for name, factor in factors.items()}
    steps: dict[str, Step] = {}
    faults = Faults()
    for position, entry in enumerate(entries):
        here, step = f"ladder.{position}", level_name(entry.step)
        versus = level_name(entry.versus) if "versus" in entry.model_fields_set else next(reversed(steps), None)
        levels = baseline
        with faults.collecting():
            levels = baseline | read_levels(entry.levels, factors, f"{here} (step {step})")
        if step in steps:
            faults.append(f"{here}: step {step!r} is named twice; rename one")
        elif versus is not None and versus not in steps:
            faults.append(f"{here} (step {step}): versus names no earlier step {versus!r}{did_you_mean(versus, steps)}")
        elif versus is not None and steps[versus].levels == levels and not faults:
            faults.append(
                f"{here}: step {step!r} changes nothing against step {versus!r}; both are {cell_name(levels)}"
            )
        steps.setdefault(step, Step(step, levels, versus))
    faults.stop()
    return tuple(steps.values())


def read_promote(entry: PromoteEntry, factors: Factors) -> Promote:
    """Return what waits for what. Raises ConfigError."""
    faults = Faults()
    with faults.collecting():
        source = read_levels(entry.source, factors, "promote.from")
    with faults.collecting():
        target = read_levels(entry.target, factors, "promote.to")
    faults.stop()
    if set(source) != set(target) or any(target[name] == level for name, level in source.items()):
        faults.append(f"promote: from and to must name the same factors at different levels, as in '{PROMOTE_EXAMPLE}'")
    faults += [
        f"promote: {name} is applied at evaluation, which needs no training of its own; "
        "name a factor that changes the training, or leave promote out"
        for name in source
        if factors[name].stage == "eval"
    ]
    faults.stop()
    return Promote(entry.when, source, target)
